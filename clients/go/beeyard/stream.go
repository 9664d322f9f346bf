package beeyard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
)

// Stream is one job's events, in order and without gaps, over as many connections as it takes. It belongs to one
// goroutine; close it.
type Stream struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc

	// request submits the job as long as its id is not known; nil for a job that exists already.
	request *queenv1.InferRequest
	jobID   string

	// call is the connection in use and hangUp ends it; both nil between two.
	call   grpc.ServerStreamingClient[queenv1.JobEvent]
	hangUp context.CancelFunc

	// pending is the first event, read to know whether the job was accepted.
	pending Event
	// ended is what Next returns from now on: io.EOF after the terminal event.
	ended error

	// What the reader has seen, so that a resumed stream repeats nothing.
	queued  bool
	attempt int32
	next    int32

	// tries without an event since the last one, and when that was.
	tries    int
	lastSeen time.Time
}

// Infer submits a job and returns once it is durable. A refused job is an error here, never in the stream. The stream
// lives as long as ctx at most; the job does not end with it.
func (c *Client) Infer(ctx context.Context, request Request) (*Stream, error) {
	return c.follow(ctx, &Stream{client: c, request: request.infer()})
}

// Watch follows a job from a token index on: 0, or the number of tokens that the caller already has.
func (c *Client) Watch(ctx context.Context, jobID string, fromToken int32) (*Stream, error) {
	return c.follow(ctx, &Stream{client: c, jobID: jobID, next: fromToken})
}

func (c *Client) follow(ctx context.Context, s *Stream) (*Stream, error) {
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.lastSeen = time.Now()
	first, err := s.receive()
	if err != nil {
		s.Close()
		return nil, err
	}
	s.pending = first
	return s, nil
}

// JobID returns the queen's name for the job.
func (s *Stream) JobID() string { return s.jobID }

// NextIndex returns the index after the last token that Next returned: what Watch needs to go on from here.
func (s *Stream) NextIndex() int32 {
	if tokens, ok := s.pending.(Tokens); ok {
		return tokens.GetFirstIndex()
	}
	return s.next
}

// Close lets go of the stream. The job goes on; use Cancel to stop it.
func (s *Stream) Close() {
	s.drop()
	s.cancel()
	if s.ended == nil {
		s.ended = io.EOF
	}
}

// Next waits for the next event. After the terminal event it returns io.EOF. A broken connection is resumed behind the
// caller's back; an error means that this could not be done within ctx and the client's own bounds.
func (s *Stream) Next() (Event, error) {
	if event := s.pending; event != nil {
		s.pending = nil
		return event, nil
	}
	if s.ended != nil {
		return nil, s.ended
	}
	event, err := s.receive()
	if err != nil {
		s.ended = err
		s.drop()
		return nil, err
	}
	return event, nil
}

// All returns the events that are left. It stops after the first error; io.EOF is not one.
func (s *Stream) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := s.Next()
			if errors.Is(err, io.EOF) || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Completion is a whole answer.
type Completion struct {
	// JobID is the queen's name for the job.
	JobID string
	// Text of all tokens read.
	Text string
	// IDs of the tokens, in the model's vocabulary; empty when the engine does not reveal them.
	IDs []uint32
	// Reason why the generation ended.
	Reason FinishReason
	// Usage counts tokens; nil if the queen sent none.
	Usage *Usage
	// Timings say where the time went; nil if the queen sent none.
	Timings *Timings
}

// Collect reads to the end and closes the stream. A job that failed or was cancelled is an [*Error]; the text that
// came before is returned with it.
func (s *Stream) Collect() (*Completion, error) {
	defer s.Close()
	answer := &Completion{JobID: s.jobID}
	var text strings.Builder
	for event, err := range s.All() {
		if err == nil {
			switch event := event.(type) {
			case Tokens:
				text.WriteString(event.GetText())
				answer.IDs = append(answer.IDs, event.GetIds()...)
			case Finished:
				answer.Reason, answer.Usage, answer.Timings = event.GetReason(), event.GetUsage(), event.GetTimings()
			case Failed:
				err = event.Err()
			case Cancelled:
				err = &Error{Reason: ReasonCancelled, Code: codes.Canceled, Message: "the job was cancelled"}
			}
		}
		if err != nil {
			answer.Text = text.String()
			return answer, err
		}
	}
	answer.Text = text.String()
	return answer, nil
}

// receive returns the next event that the reader has not seen, over a new connection if need be.
func (s *Stream) receive() (Event, error) {
	for {
		message, err := s.read()
		if err == nil {
			var event Event
			if event, err = s.admit(message); event != nil {
				s.tries, s.lastSeen = 0, time.Now()
				return event, nil
			}
		}
		if err != nil {
			s.drop()
			if err = s.pause(fromRPC(s.ctx, err)); err != nil {
				return nil, err
			}
		}
	}
}

// read returns the next message of the connection, and opens one if there is none.
func (s *Stream) read() (*queenv1.JobEvent, error) {
	if s.call == nil {
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	message, err := s.call.Recv()
	if errors.Is(err, io.EOF) {
		// An end without a terminal event is a break like any other.
		return nil, errOutOfStep("the stream ended before the job")
	}
	return message, err
}

func (s *Stream) open() error {
	ctx, hangUp := context.WithCancel(s.ctx)
	var err error
	if s.jobID == "" {
		// The same request id each time: whatever became of the first try, the job is one.
		s.call, err = s.client.inference.Infer(ctx, s.request)
	} else {
		s.call, err = s.client.inference.WatchJob(ctx, &queenv1.WatchJobRequest{JobId: s.jobID, FromToken: s.next})
	}
	if err != nil {
		s.call = nil
		hangUp()
		return err
	}
	s.hangUp = hangUp
	return nil
}

// drop ends the connection in use, if there is one.
func (s *Stream) drop() {
	if s.hangUp != nil {
		s.hangUp()
	}
	s.call, s.hangUp = nil, nil
}

// letEnd leaves a connection that has told everything to its queen to end, and cuts it if that takes long. One that is
// cut in that moment costs a queen memory for good: https://github.com/grpc/grpc/issues/43360.
func (s *Stream) letEnd() {
	timer := time.AfterFunc(streamEnd, s.hangUp)
	defer timer.Stop()
	for err := error(nil); err == nil; {
		_, err = s.call.Recv()
	}
	s.drop()
}

// admit returns the event of a message, or nil if the reader has seen it already: a resumed stream tells the job's
// story from its beginning, but for the tokens.
func (s *Stream) admit(message *queenv1.JobEvent) (Event, error) {
	if s.jobID == "" {
		s.jobID = message.GetJobId()
	}
	switch event := eventOf(message).(type) {
	case nil:
		return nil, nil
	case Queued:
		if s.queued {
			return nil, nil
		}
		s.queued = true
		return event, nil
	case Started:
		if event.GetAttempt() <= s.attempt {
			return nil, nil
		}
		s.attempt = event.GetAttempt()
		return event, nil
	case Tokens:
		end := event.GetFirstIndex() + event.GetCount()
		if end <= s.next {
			return nil, nil
		}
		if event.GetFirstIndex() != s.next {
			return nil, errOutOfStep("tokens are missing in the stream")
		}
		s.next = end
		return event, nil
	case Finished, Failed, Cancelled:
		s.ended = io.EOF
		s.letEnd()
		return event, nil
	default:
		return event, nil
	}
}

// pause waits before the next try, or returns err when there should be none.
func (s *Stream) pause(err error) error {
	s.tries++
	switch {
	case s.jobID == "" && (!isPassing(err) || s.tries >= submitTriesMax):
		return err
	case s.jobID != "" && !s.isResumable(err):
		return err
	case time.Since(s.lastSeen) >= resumeWindow:
		return err
	}
	if cause := rest(s.ctx, s.tries); cause != nil {
		return fmt.Errorf("beeyard: job %q not followed to its end: %w (before that: %w)", s.jobID, cause, err)
	}
	return nil
}

// isResumable says whether WatchJob may yet go on where the reader is.
func (s *Stream) isResumable(err error) bool {
	var answer *Error
	if errors.As(err, &answer) && answer.Reason == ReasonResumeOffsetGone {
		// A queen that has just restarted knows only the tokens that it wrote down; the worker sends the rest again. Only
		// who has read an event from this job may hope for that: an index that was never there does not come back.
		return s.queued || s.attempt > 0
	}
	if !s.queued && s.attempt == 0 && s.tries >= submitTriesMax {
		return false // Watch, and no queen answered at all.
	}
	return isBroken(err)
}

func errOutOfStep(message string) error {
	return &Error{Reason: ReasonStreamReadError, Code: codes.Unavailable, Message: message}
}

// connectParams makes gRPC's own reconnection as quick as ours: its default waits up to two minutes.
func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: backoffMin, Multiplier: 2, Jitter: 0.2, MaxDelay: backoffMax},
		MinConnectTimeout: callTimeout,
	}
}
