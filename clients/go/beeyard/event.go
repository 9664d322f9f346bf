package beeyard

import (
	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	workerv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/worker/v1"
	"google.golang.org/grpc/codes"
)

// Event is one of [Queued], [Started], [Tokens], [Progress], [Finished], [Failed] and [Cancelled]. They come in this
// order: one Queued, for each attempt a Started and its Tokens with Progress in between, then exactly one of the last
// three.
type Event interface {
	isEvent()
}

type (
	// Queued says that the job is durable.
	Queued struct{ *queenv1.JobQueued }
	// Started says that an attempt began.
	Started struct{ *queenv1.JobStarted }
	// Tokens are some more tokens. Tokens once delivered never change.
	Tokens struct{ *workerv1.TokenChunk }
	// Progress is something that a person who waits would like to see.
	Progress struct{ *queenv1.JobProgress }
	// Finished ends a job that is COMPLETED.
	Finished struct{ *queenv1.JobFinished }
	// Failed ends a job that is FAILED or EXPIRED.
	Failed struct{ *queenv1.JobFailed }
	// Cancelled ends a job that somebody cancelled.
	Cancelled struct{ *queenv1.JobCancelled }
)

func (Queued) isEvent()    {}
func (Started) isEvent()   {}
func (Tokens) isEvent()    {}
func (Progress) isEvent()  {}
func (Finished) isEvent()  {}
func (Failed) isEvent()    {}
func (Cancelled) isEvent() {}

// Err returns the failure as an error.
func (f Failed) Err() *Error {
	code := codes.FailedPrecondition
	if f.GetRetriable() {
		code = codes.Unavailable
	}
	if Reason(f.GetReason()) == ReasonDeadlineExceeded {
		code = codes.DeadlineExceeded
	}
	return &Error{
		Reason:     Reason(f.GetReason()),
		Code:       code,
		Message:    f.GetMessage(),
		RetryAfter: milliseconds(f.GetRetryAfterMs()),
		fromQueen:  true,
	}
}

// eventOf names the event of a message; nil for a kind that a newer queen sends and this client does not know.
func eventOf(message *queenv1.JobEvent) Event {
	switch event := message.GetEvent().(type) {
	case *queenv1.JobEvent_Queued:
		return Queued{event.Queued}
	case *queenv1.JobEvent_Started:
		return Started{event.Started}
	case *queenv1.JobEvent_Tokens:
		return Tokens{event.Tokens}
	case *queenv1.JobEvent_Progress:
		return Progress{event.Progress}
	case *queenv1.JobEvent_Finished:
		return Finished{event.Finished}
	case *queenv1.JobEvent_Failed:
		return Failed{event.Failed}
	case *queenv1.JobEvent_Cancelled:
		return Cancelled{event.Cancelled}
	default:
		return nil
	}
}
