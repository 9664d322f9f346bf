package beeyard

import (
	"context"
	"errors"
	"testing"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	"google.golang.org/grpc/codes"
)

func TestSubmitTriesAgainUnderTheSameIDUntilAQueenTakesTheJob(t *testing.T) {
	client, queen := dialFake(t)
	queen.refusals = []error{errCut, refusal(t, codes.Unavailable, ReasonDraining), errCut}
	job, err := client.Submit(t.Context(), Request{Prompt: "bee"})
	if err != nil || job.GetJobId() != "j1" {
		t.Fatalf("got %v, %v", job, err)
	}
	if len(queen.submitted) != 4 {
		t.Fatalf("%d submissions", len(queen.submitted))
	}
	for _, request := range queen.submitted {
		if id := request.GetRequestId(); id == "" || id != queen.submitted[0].GetRequestId() {
			t.Errorf("submitted as %q and as %q", queen.submitted[0].GetRequestId(), id)
		}
	}
}

func TestSubmitAsksAQueenThatRefusesOnce(t *testing.T) {
	for _, refused := range []error{
		refusal(t, codes.ResourceExhausted, ReasonQueueFullReject),
		refusal(t, codes.Unavailable, ReasonStoreUnavailable),
		refusal(t, codes.InvalidArgument, ReasonInvalidRequest),
	} {
		client, queen := dialFake(t)
		queen.refusals = []error{refused}
		if job, err := client.Submit(t.Context(), Request{Prompt: "bee"}); err == nil {
			t.Errorf("%v was taken after %v", job, refused)
		}
		if len(queen.submitted) != 1 {
			t.Errorf("%d submissions after %v", len(queen.submitted), refused)
		}
	}
}

func TestSubmitTriesNoLongerThanTheCallersDeadline(t *testing.T) {
	client, queen := dialFake(t)
	for range 1000 {
		queen.refusals = append(queen.refusals, errCut)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*backoffMin)
	defer cancel()
	_, err := client.Submit(ctx, Request{Prompt: "bee"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if tries := len(queen.submitted); tries < 2 {
		t.Errorf("%d submissions", tries)
	}
}

func TestSubmitWithoutADeadlineReportsAQueenThatIsNotThereSoon(t *testing.T) {
	client, queen := dialFake(t)
	for range 1000 {
		queen.refusals = append(queen.refusals, errCut)
	}
	began := time.Now()
	_, err := client.Submit(t.Context(), Request{Prompt: "bee"})
	var answer *Error
	if !errors.As(err, &answer) || answer.Reason != ReasonQueenUnreachable {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < submitWindow || len(queen.submitted) < 3 {
		t.Errorf("%d submissions in %v", len(queen.submitted), took)
	}
}

func TestInferWaitsForTheSuccessorOfAQueenThatShutsDown(t *testing.T) {
	client, queen := dialFake(t,
		script{err: refusal(t, codes.Unavailable, ReasonDraining)},
		script{events: []*queenv1.JobEvent{queued(), finished()}})
	stream, err := client.Infer(t.Context(), Request{Prompt: "bee"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, tell(t, stream), []string{"queued", "finished"})
	if len(queen.inferred) != 2 || queen.inferred[0].GetRequestId() != queen.inferred[1].GetRequestId() {
		t.Errorf("inferred as %v", queen.inferred)
	}
}
