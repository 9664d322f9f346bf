package beeyard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/beeyard/beeyard/clients/go/beeyard"
)

// stream writes an answer as its tokens come, and returns how many there were.
func stream(ctx context.Context, client *beeyard.Client, model string, out io.Writer) (int, error) {
	answer, err := client.Infer(ctx, beeyard.Request{
		Model: model, Prompt: "The honey bee", MaxTokens: 16, Seed: new(int64(7)),
	})
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	count := 0
	for {
		event, err := answer.Next()
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return count, err
		}
		switch event := event.(type) {
		case beeyard.Started:
			fmt.Fprintf(out, "[worker %s]\n", event.GetWorkerId())
		case beeyard.Tokens:
			fmt.Fprint(out, event.GetText())
			count += int(event.GetCount())
		case beeyard.Finished:
			fmt.Fprintf(out, "\n[%.0f tokens/s]\n", event.GetTimings().GetTokensPerS())
		case beeyard.Failed:
			return count, event.Err()
		}
	}
}

// Streams one answer. A connection that breaks meanwhile is resumed at the next token.
func ExampleClient_Infer() {
	client, err := beeyard.Dial(os.Getenv("BEEYARD_QUEEN"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := stream(ctx, client, os.Getenv("BEEYARD_MODEL"), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// Decides by the reason of a refusal, never by its message.
func ExampleError() {
	client, err := beeyard.Dial(os.Getenv("BEEYARD_QUEEN"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	_, err = client.Submit(context.Background(), beeyard.Request{Prompt: "The honey bee"})
	var refused *beeyard.Error
	switch {
	case errors.As(err, &refused) && refused.RetryAfter > 0:
		fmt.Println("ask again in", refused.RetryAfter)
	case errors.As(err, &refused) && refused.Reason == beeyard.ReasonInvalidRequest:
		fmt.Println("change", refused.Field)
	}
}

// deploy makes a policy the one that decides, says what is wrong with it if it cannot, and returns its version.
func deploy(ctx context.Context, client *beeyard.Client, text string, out io.Writer) (*beeyard.PolicyVersion, error) {
	version, err := client.DeployPolicy(ctx, beeyard.LuaPolicy(text), beeyard.Deployment{Name: "patient", Author: "ada"})
	var refused *beeyard.Error
	if errors.As(err, &refused) && refused.Reason == beeyard.ReasonPolicyInvalid {
		fmt.Fprintf(out, "line %s: %s\n", refused.Metadata["line"], refused.Message)
	}
	if err == nil {
		fmt.Fprintf(out, "%s@%d decides\n", version.GetName(), version.GetVersion())
	}
	return version, err
}

// Deploys a policy of one's own, and goes back to the platform policy.
func ExampleClient_DeployPolicy() {
	client, err := beeyard.Dial(os.Getenv("BEEYARD_QUEEN"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx := context.Background()
	policy := "function schedule(context) return platform.schedule(context) end"
	if _, err := deploy(ctx, client, policy, os.Stdout); err != nil {
		log.Fatal(err)
	}
	if _, err := client.RollbackPolicy(ctx, 0); err != nil {
		log.Fatal(err)
	}
}
