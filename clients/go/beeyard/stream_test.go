package beeyard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

var errCut = status.Error(codes.Unavailable, "connection reset")

// refusal is an answer as a queen gives it.
func refusal(t *testing.T, code codes.Code, reason Reason, details ...protoadapt.MessageV1) error {
	t.Helper()
	details = append([]protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: string(reason), Domain: "beeyard", Metadata: map[string]string{"policy_label": "full"}}}, details...)
	answer, err := status.New(code, "no").WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Err()
}

// tell writes the story of a stream in a few words.
func tell(t *testing.T, stream *Stream) []string {
	t.Helper()
	var story []string
	for event, err := range stream.All() {
		if err != nil {
			t.Fatalf("after %v: %v", story, err)
		}
		switch event := event.(type) {
		case Queued:
			story = append(story, "queued")
		case Started:
			story = append(story, fmt.Sprintf("started %d", event.GetAttempt()))
		case Tokens:
			story = append(story, fmt.Sprintf("%d %s", event.GetFirstIndex(), event.GetText()))
		case Finished:
			story = append(story, "finished")
		default:
			story = append(story, fmt.Sprintf("%T", event))
		}
	}
	return story
}

func expect[T comparable](t *testing.T, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestABrokenStreamGoesOnAtTheNextToken(t *testing.T) {
	client, queen := dialFake(t,
		script{events: []*queenv1.JobEvent{queued(), started(1), tokens(0, "a", "b")}, err: errCut},
		script{err: errCut},
		script{events: []*queenv1.JobEvent{queued(), started(1), tokens(2, "c"), started(2)}},
		script{events: []*queenv1.JobEvent{queued(), started(2), tokens(3, "d"), finished()}})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "0 ab", "2 c", "started 2", "3 d", "finished"})
	var from []int32
	for _, request := range queen.watched {
		from = append(from, request.GetFromToken())
	}
	expect(t, from, []int32{2, 2, 3})
	if _, err := stream.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAConnectionThatHasToldEverythingIsLeftToItsQueenToEnd(t *testing.T) {
	ended := make(chan bool, 1)
	client, _ := dialFake(t, script{events: []*queenv1.JobEvent{queued(), started(1), finished()}, ended: ended})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "finished"})
	stream.Close()
	if <-ended {
		t.Error("the connection was cut")
	}
}

func TestAConnectionThatItsQueenDoesNotEndIsCut(t *testing.T) {
	client, _ := dialFake(t, script{events: []*queenv1.JobEvent{queued(), started(1), finished()}, hang: true})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "finished"})
}

func TestTokensThatWereSeenAreDroppedAndAGapIsFetched(t *testing.T) {
	client, queen := dialFake(t,
		script{events: []*queenv1.JobEvent{queued(), started(1), tokens(0, "a"), tokens(0, "a"), tokens(5, "f")}},
		script{events: []*queenv1.JobEvent{tokens(1, "b"), finished()}})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "0 a", "1 b", "finished"})
	if len(queen.watched) != 1 || queen.watched[0].GetFromToken() != 1 {
		t.Errorf("watched %v", queen.watched)
	}
}

func TestAJobWhoseAcceptanceIsUnknownIsSubmittedAgainUnderTheSameID(t *testing.T) {
	client, queen := dialFake(t,
		script{err: errCut}, script{events: []*queenv1.JobEvent{queued(), started(1), finished()}})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if stream.JobID() != "j1" {
		t.Errorf("job id %q", stream.JobID())
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "finished"})
	if len(queen.inferred) != 2 || !proto.Equal(queen.inferred[0], queen.inferred[1]) || queen.inferred[0].GetRequestId() == "" {
		t.Errorf("submitted %v", queen.inferred)
	}
}

func TestAQueenThatIsNotThereIsReportedSoon(t *testing.T) {
	client, queen := dialFake(t, script{err: errCut}, script{err: errCut}, script{err: errCut}, script{err: errCut})
	_, err := client.Infer(t.Context(), Request{Prompt: "p"})
	var answer *Error
	if !errors.As(err, &answer) || answer.Code != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if len(queen.inferred) != submitTriesMax {
		t.Errorf("tried %d times", len(queen.inferred))
	}
}

func TestARefusalIsATypedErrorAndNotTriedAgain(t *testing.T) {
	client, _ := dialFake(t, script{err: refusal(t, codes.ResourceExhausted, ReasonQueueFullReject,
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "prompt"}}})})
	_, err := client.Infer(t.Context(), Request{Prompt: "p"})
	var answer *Error
	if !errors.As(fmt.Errorf("wrapped: %w", err), &answer) {
		t.Fatalf("got %v", err)
	}
	if answer.Reason != ReasonQueueFullReject || answer.Code != codes.ResourceExhausted ||
		answer.RetryAfter != 1500*time.Millisecond || answer.Field != "prompt" || answer.Message != "no" ||
		answer.Metadata["policy_label"] != "full" {
		t.Errorf("got %+v", answer)
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("status code %v", status.Code(err))
	}
}

func TestARefusalInMidStreamEndsTheStream(t *testing.T) {
	client, _ := dialFake(t,
		script{events: []*queenv1.JobEvent{queued()}, err: errCut},
		script{err: refusal(t, codes.NotFound, ReasonJobNotFound)})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Collect()
	var answer *Error
	if !errors.As(err, &answer) || answer.Reason != ReasonJobNotFound {
		t.Errorf("got %v", err)
	}
}

func TestAQueenThatHasJustRestartedMayNotYetHaveTheTokens(t *testing.T) {
	gone := refusal(t, codes.OutOfRange, ReasonResumeOffsetGone)
	client, _ := dialFake(t,
		script{events: []*queenv1.JobEvent{queued(), started(1), tokens(0, "a")}, err: errCut},
		script{err: gone},
		script{events: []*queenv1.JobEvent{tokens(1, "b"), finished()}},
		script{err: gone})
	stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "started 1", "0 a", "1 b", "finished"})

	var answer *Error
	if _, err := client.Watch(t.Context(), "j1", 99); !errors.As(err, &answer) || answer.Reason != ReasonResumeOffsetGone {
		t.Errorf("an index that never was: %v", err)
	}
}

func TestTheContextEndsTheStreamWithItsOwnError(t *testing.T) {
	client, _ := dialFake(t, script{events: []*queenv1.JobEvent{queued()}, hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Infer(ctx, Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Next(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := stream.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTheDeadlineHoldsWhileResuming(t *testing.T) {
	broken := []script{{events: []*queenv1.JobEvent{queued()}, err: errCut}}
	for range 20 {
		broken = append(broken, script{err: errCut})
	}
	client, _ := dialFake(t, broken...)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	stream, err := client.Infer(ctx, Request{Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Collect(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCollectReturnsTheAnswerOrTheFailure(t *testing.T) {
	failed := &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Failed{Failed: &queenv1.JobFailed{
		Reason: string(ReasonAttemptsExhausted), Retriable: true, RetryAfterMs: 20, Message: "broke"}}}
	cancelled := &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Cancelled{Cancelled: &queenv1.JobCancelled{}}}
	client, _ := dialFake(t,
		script{events: []*queenv1.JobEvent{queued(), started(1), tokens(0, "a", "b"), tokens(2, "c"), finished()}},
		script{events: []*queenv1.JobEvent{queued(), failed}},
		script{events: []*queenv1.JobEvent{queued(), cancelled}})
	collect := func() (*Completion, error) {
		stream, err := client.Infer(t.Context(), Request{Prompt: "p"})
		if err != nil {
			t.Fatal(err)
		}
		return stream.Collect()
	}
	if answer, err := collect(); err != nil || answer.Text != "abc" || !slices.Equal(answer.IDs, []uint32{0, 1, 2}) {
		t.Errorf("got %+v, %v", answer, err)
	}
	var broken *Error
	if _, err := collect(); !errors.As(err, &broken) || broken.Reason != ReasonAttemptsExhausted ||
		broken.RetryAfter != 20*time.Millisecond {
		t.Errorf("got %v", err)
	}
	if _, err := collect(); !errors.As(err, &broken) || broken.Reason != ReasonCancelled {
		t.Errorf("got %v", err)
	}
}

func TestListAsksForTheNextPageOnlyWhenItIsNeeded(t *testing.T) {
	client, queen := dialFake(t)
	var ids []string
	for job, err := range client.List(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, job.GetJobId())
	}
	expect(t, ids, []string{"j3", "j2", "j1"})
	for range client.List(t.Context(), Filter{}) {
		break
	}
	if len(queen.pages) != 3 {
		t.Errorf("asked for %d pages", len(queen.pages))
	}
}

func TestSubmitSendsWhatInferSends(t *testing.T) {
	request := Request{
		RequestID: "r", Model: "m", Messages: []Message{{Role: "user", Content: "hi"}}, MaxTokens: 3,
		Temperature: new(0.0), TopP: new(0.5), TopK: new(int32(7)), Seed: new(int64(1 << 32)), Stop: []string{"x"},
		Priority: PriorityBatch, TenantID: "t", SessionID: "s", Deadline: 2 * time.Second, Engine: "synthetic",
		Requirements: &Requirements{MinVramBytes: 1}, Placement: &Placement{PinPoolId: "p"},
		Labels: map[string]string{"a": "b"}, CostUnits: 2, MaxAttempts: 4,
	}
	submitted, err := request.submit()
	if err != nil {
		t.Fatal(err)
	}
	inferred := request.infer().ProtoReflect()
	if len(submitted.ProtoReflect().GetUnknown()) != 0 {
		t.Error("SubmitJobRequest lacks a field")
	}
	fields := inferred.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		twin := submitted.ProtoReflect().Descriptor().Fields().ByName(field.Name())
		if field.Name() == "prompt" {
			continue // Messages are set instead.
		}
		if !inferred.Has(field) {
			t.Errorf("Request never sets %s", field.Name())
		}
		if twin == nil || !inferred.Get(field).Equal(submitted.ProtoReflect().Get(twin)) {
			t.Errorf("%s differs", field.Name())
		}
	}
}
