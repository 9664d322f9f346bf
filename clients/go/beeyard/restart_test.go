package beeyard_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/beeyard/beeyard/clients/go/beeyard"
)

// mark is printed once tokens come; whoever runs the test restarts the queen then.
const mark = "RESTART THE QUEEN NOW"

func TestRestartOfTheQueenIsNotSeenInAStream(t *testing.T) {
	if os.Getenv("BEEYARD_RESTART") == "" {
		t.Skip("NOT RUN: set BEEYARD_RESTART and restart the queen when the test says so")
	}
	client, model := live(t)
	request := beeyard.Request{Model: model, Prompt: "bee", MaxTokens: 600, Seed: new(int64(7))}
	stream, err := client.Infer(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var text strings.Builder
	next, isMarked := int32(0), false
	for {
		event, err := stream.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after token %d: %v", next, err)
		}
		switch event := event.(type) {
		case beeyard.Tokens:
			if event.GetFirstIndex() != next {
				t.Fatalf("token %d came, %d was due", event.GetFirstIndex(), next)
			}
			next += event.GetCount()
			text.WriteString(event.GetText())
			if next >= 20 && !isMarked {
				isMarked = true
				fmt.Println(mark)
			}
		case beeyard.Failed:
			t.Fatal(event.Err())
		}
	}
	if next != request.MaxTokens {
		t.Errorf("%d tokens of %d", next, request.MaxTokens)
	}
	again, err := client.Infer(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	undisturbed, err := again.Collect()
	if err != nil || undisturbed.Text != text.String() {
		t.Errorf("the text differs from that of an undisturbed run, %v", err)
	}
}
