package beeyard

import (
	"crypto/rand"
	"fmt"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	workerv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/worker/v1"
	"google.golang.org/protobuf/proto"
)

// Message is one turn of a conversation.
type Message struct {
	// Role is `system`, `user` or `assistant`.
	Role string
	// Content is what is said.
	Content string
}

// Request is a job to run. The zero value of a field means the queen's default; fields where zero is a value of its
// own are pointers, so write new(0.0) for a temperature of 0.
type Request struct {
	// RequestID is the idempotency key, at most 128 bytes. Empty: the client draws one, so that it can submit again
	// after a break without running the job twice.
	RequestID string
	// Model as [Client.Models] names it. Empty: the queen's default.
	Model string
	// Prompt is the text to continue. Exactly one of Prompt and Messages is set.
	Prompt string
	// Messages is the conversation to answer.
	Messages []Message
	// MaxTokens is the most tokens to generate. 0: 256.
	MaxTokens int32
	// Temperature from 0 to 2. Nil: 0.8.
	Temperature *float64
	// TopP above 0 to 1. Nil: 0.95.
	TopP *float64
	// TopK candidates, 0 for all. Nil: 40.
	TopK *int32
	// Seed of the sampler, 0 to 4294967295. Nil: the queen draws one and keeps it over all attempts.
	Seed *int64
	// Stop strings, at most 16 of at most 256 bytes.
	Stop []string
	// Priority class. Zero: normal.
	Priority Priority
	// TenantID says whose job it is. Empty: `default`.
	TenantID string
	// SessionID names the conversation that it belongs to. Empty: none.
	SessionID string
	// Deadline from acceptance to end, in whole milliseconds. 0: none. It ends the job; a context's deadline only ends
	// the call.
	Deadline time.Duration
	// Engine restricts the job to workers of this engine. Empty: any.
	Engine string
	// Requirements on device and model. Nil: none.
	Requirements *Requirements
	// Placement says where the job should or should not run. Nil: anywhere.
	Placement *Placement
	// Labels for listings and policies.
	Labels map[string]string
	// CostUnits against budgets. 0: 1.
	CostUnits int32
	// MaxAttempts is how often the job may be tried, 1 to 10. 0: 3.
	MaxAttempts int32
}

// infer returns the message for Infer, with a request id in any case.
func (r Request) infer() *queenv1.InferRequest {
	message := &queenv1.InferRequest{
		RequestId:    r.RequestID,
		Model:        r.Model,
		Prompt:       r.Prompt,
		MaxTokens:    r.MaxTokens,
		Temperature:  r.Temperature,
		TopP:         r.TopP,
		TopK:         r.TopK,
		Seed:         r.Seed,
		Stop:         r.Stop,
		Priority:     r.Priority,
		TenantId:     r.TenantID,
		SessionId:    r.SessionID,
		DeadlineMs:   r.Deadline.Milliseconds(),
		Engine:       r.Engine,
		Requirements: r.Requirements,
		Placement:    r.Placement,
		Labels:       r.Labels,
		CostUnits:    r.CostUnits,
		MaxAttempts:  r.MaxAttempts,
	}
	if message.RequestId == "" {
		message.RequestId = rand.Text()
	}
	for _, turn := range r.Messages {
		message.Messages = append(message.Messages, &workerv1.ChatMessage{Role: turn.Role, Content: turn.Content})
	}
	return message
}

// submit returns the message for SubmitJob. The two messages are field for field the same, so it goes over the wire
// format instead of a second list of fields that could be forgotten.
func (r Request) submit() (*queenv1.SubmitJobRequest, error) {
	wire, err := proto.Marshal(r.infer())
	if err != nil {
		return nil, fmt.Errorf("beeyard: request cannot be encoded: %w", err)
	}
	message := &queenv1.SubmitJobRequest{}
	if err := proto.Unmarshal(wire, message); err != nil {
		return nil, fmt.Errorf("beeyard: request cannot be encoded: %w", err)
	}
	return message, nil
}

func milliseconds(count int64) time.Duration {
	return time.Duration(count) * time.Millisecond
}
