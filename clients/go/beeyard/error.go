package beeyard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is what a queen, or the way to it, answered instead of a result.
type Error struct {
	// Reason is out of the contract's closed list. Decide by it, never by Message.
	Reason Reason
	// Code is the gRPC code that travels with the reason.
	Code codes.Code
	// Message is one sentence for a person.
	Message string
	// RetryAfter is when to ask again; zero when asking again cannot help, or nothing is known.
	RetryAfter time.Duration
	// Field is the path of the request field at fault, such as `requirements.min_vram_bytes`; empty if none is.
	Field string
	// Metadata holds further facts, such as what was needed and what the best pool has; nil if there are none.
	Metadata map[string]string

	// fromQueen is true when the answer names its reason itself, false when it is derived from the code: then the
	// transport broke, and the call may or may not have been carried out.
	fromQueen bool
}

// Error returns the reason and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("beeyard: %s: %s", e.Reason, e.Message)
}

// GRPCStatus makes an Error work with the status package.
func (e *Error) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

// Is lets a deadline that was noticed on the way look like one that the context noticed here: which of the two comes
// first is chance.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded && !e.fromQueen
}

// fromRPC turns what gRPC returned into an *Error, or into the context's own error when the caller's context ended.
func fromRPC(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("beeyard: call not finished: %w", cause)
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	answer := status.Convert(err)
	decoded := &Error{Reason: reasonOf(answer.Code()), Code: answer.Code(), Message: answer.Message()}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			decoded.Reason = Reason(detail.GetReason())
			decoded.Metadata = detail.GetMetadata()
			decoded.fromQueen = true
		case *errdetails.RetryInfo:
			decoded.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				decoded.Field = violations[0].GetField()
			}
		}
	}
	return decoded
}

// reasonOf gives a reason to an answer that has none, because no queen was reached or something between broke.
func reasonOf(code codes.Code) Reason {
	switch code {
	case codes.Unavailable:
		return ReasonQueenUnreachable
	case codes.DeadlineExceeded:
		return ReasonDeadlineExceeded
	case codes.Unauthenticated:
		return ReasonUnauthenticated
	case codes.PermissionDenied:
		return ReasonPermissionDenied
	case codes.InvalidArgument:
		return ReasonInvalidRequest
	case codes.Canceled, codes.Unknown, codes.Internal:
		return ReasonStreamReadError
	default:
		return ReasonInternal
	}
}

// isBroken says whether the link failed rather than the request: the same call, made again, may work.
func isBroken(err error) bool {
	var answer *Error
	if !errors.As(err, &answer) {
		return false
	}
	if answer.fromQueen {
		// A queen that drains says so; its successor has the same jobs.
		return answer.Code == codes.Unavailable
	}
	switch answer.Code {
	// Cancelled, since the caller's own cancellation is no *Error: the server cut the call while it stopped.
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Canceled:
		return true
	default:
		return false
	}
}
