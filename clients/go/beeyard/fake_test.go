package beeyard

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	workerv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/worker/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// fakeQueen plays one script a call: it sends the events and then returns the error.
type fakeQueen struct {
	queenv1.UnimplementedInferenceServiceServer
	queenv1.UnimplementedFleetServiceServer

	mutex    sync.Mutex
	scripts  []script
	inferred []*queenv1.InferRequest
	watched  []*queenv1.WatchJobRequest
	pages    []*queenv1.ListJobsRequest

	// refusals are what SubmitJob answers, one a call, before it takes the job; submitted is all that it was asked.
	refusals  []error
	submitted []*queenv1.SubmitJobRequest
}

type script struct {
	events []*queenv1.JobEvent
	err    error
	// hang keeps the call open until its caller goes.
	hang bool
	// ended is told whether the call was cut before the queen ended it, which here takes a moment; may be nil.
	ended chan bool
}

func (q *fakeQueen) play(stream grpc.ServerStreamingServer[queenv1.JobEvent]) error {
	q.mutex.Lock()
	current := q.scripts[0]
	q.scripts = q.scripts[1:]
	q.mutex.Unlock()
	for _, event := range current.events {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	if current.hang {
		<-stream.Context().Done()
	}
	if current.ended != nil {
		select {
		case <-stream.Context().Done():
			current.ended <- true
		case <-time.After(20 * time.Millisecond):
			current.ended <- false
		}
	}
	return current.err
}

func (q *fakeQueen) Infer(request *queenv1.InferRequest, stream grpc.ServerStreamingServer[queenv1.JobEvent]) error {
	q.inferred = append(q.inferred, request)
	return q.play(stream)
}

func (q *fakeQueen) WatchJob(request *queenv1.WatchJobRequest, stream grpc.ServerStreamingServer[queenv1.JobEvent]) error {
	q.watched = append(q.watched, request)
	return q.play(stream)
}

func (q *fakeQueen) SubmitJob(_ context.Context, request *queenv1.SubmitJobRequest) (*queenv1.Job, error) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.submitted = append(q.submitted, request)
	if len(q.refusals) > 0 {
		err := q.refusals[0]
		q.refusals = q.refusals[1:]
		return nil, err
	}
	return &Job{JobId: "j1"}, nil
}

func (q *fakeQueen) ListJobs(_ context.Context, request *queenv1.ListJobsRequest) (*queenv1.ListJobsResponse, error) {
	q.pages = append(q.pages, request)
	if request.GetPageToken() == "" {
		return &queenv1.ListJobsResponse{Jobs: []*Job{{JobId: "j3"}, {JobId: "j2"}}, NextPageToken: "more"}, nil
	}
	return &queenv1.ListJobsResponse{Jobs: []*Job{{JobId: "j1"}}}, nil
}

// dialFake returns a client of a queen that plays the scripts.
func dialFake(t *testing.T, scripts ...script) (*Client, *fakeQueen) {
	t.Helper()
	queen := &fakeQueen{scripts: scripts}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	queenv1.RegisterInferenceServiceServer(server, queen)
	queenv1.RegisterFleetServiceServer(server, queen)
	go server.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(server.Stop)
	client, err := Dial("passthrough:///fake", WithDialOptions(
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() })))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, queen
}

func queued() *queenv1.JobEvent {
	return &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Queued{Queued: &queenv1.JobQueued{}}}
}

func started(attempt int32) *queenv1.JobEvent {
	return &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Started{Started: &queenv1.JobStarted{Attempt: attempt}}}
}

func tokens(first int32, texts ...string) *queenv1.JobEvent {
	chunk := &workerv1.TokenChunk{FirstIndex: first, Count: int32(len(texts))}
	for i, text := range texts {
		chunk.Text += text
		chunk.Ids = append(chunk.Ids, uint32(first)+uint32(i))
	}
	return &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Tokens{Tokens: chunk}}
}

func finished() *queenv1.JobEvent {
	return &queenv1.JobEvent{JobId: "j1", Event: &queenv1.JobEvent_Finished{
		Finished: &queenv1.JobFinished{Reason: workerv1.FinishReason_FINISH_REASON_LENGTH}}}
}
