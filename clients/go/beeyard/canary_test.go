package beeyard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/beeyard/beeyard/clients/go/beeyard"
)

// TestCanaryTellsEverythingButTextOfJobs prints all that this client says of jobs that end in many ways but their
// tokens. `tests/e2e/test_canary.py` says what to ask and how the server behind the worker behaves meanwhile, and
// searches what is printed for the prompt and the answer.
func TestCanaryTellsEverythingButTextOfJobs(t *testing.T) {
	prompt := os.Getenv("BEEYARD_CANARY")
	if prompt == "" {
		t.Skip("NOT RUN: set BEEYARD_CANARY to a prompt that must not be told")
	}
	client, model := live(t)
	whole := beeyard.Request{Model: model, Prompt: prompt, MaxTokens: 8}
	long, late, unknown, twice, wrong := whole, whole, whole, whole, whole
	long.Prompt = strings.Repeat(prompt+" ", 400)
	late.Deadline = time.Millisecond
	unknown.Model = "nobody-has-it"
	twice.Messages = []beeyard.Message{{Role: prompt, Content: prompt}}
	wrong.Stop = make([]string, 40)
	for n := range wrong.Stop {
		wrong.Stop[n] = prompt
	}
	for name, request := range map[string]beeyard.Request{
		"whole": whole, "long": long, "late": late, "unknown": unknown, "twice": twice, "wrong": wrong,
	} {
		tell(t, name, client, request)
	}
}

// tell follows a job and prints every event that carries no text, every error, and the job as it was left.
func tell(t *testing.T, name string, client *beeyard.Client, request beeyard.Request) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.Infer(ctx, request)
	if err != nil {
		print(name, err)
		return
	}
	defer stream.Close()
	for {
		event, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			print(name, err)
			return
		}
		if _, isText := event.(beeyard.Tokens); !isText {
			print(name, event)
		}
	}
	job, err := client.Get(ctx, stream.JobID())
	print(name, job, err)
	explanation, err := client.Explain(ctx, stream.JobID())
	print(name, explanation, err)
}

// print tells values in the ways in which a program would log them.
func print(name string, values ...any) {
	for _, value := range values {
		fmt.Printf("told %s: %v | %+v\n", name, value, value)
	}
}
