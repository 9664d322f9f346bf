package beeyard

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// fakeYard grants one lease, keeps it for so many heartbeats, and remembers how it was released.
type fakeYard struct {
	queenv1.UnimplementedLeaseServiceServer

	beats    atomic.Int64
	beatsMax int64
	beaten   chan struct{}
	released *queenv1.ReleaseLeaseRequest
}

func (y *fakeYard) RequestLease(_ context.Context, request *queenv1.RequestLeaseRequest) (*queenv1.RequestLeaseResponse, error) {
	if request.GetWorkerId() == "late" {
		denied := &queenv1.LeaseDenied{Reason: queenv1.LeaseDenied_REASON_NO_WORK, RetryAfterMs: 1000}
		return &queenv1.RequestLeaseResponse{Outcome: &queenv1.RequestLeaseResponse_Denied{Denied: denied}}, nil
	}
	lease := &Lease{LeaseId: "lease-1", Epoch: 1, WorkerId: request.GetWorkerId(), TtlMs: 60_000, HeartbeatIntervalMs: 1}
	granted := &queenv1.LeaseGranted{Lease: lease, Work: &Work{WorkId: "work-1"}}
	return &queenv1.RequestLeaseResponse{Outcome: &queenv1.RequestLeaseResponse_Granted{Granted: granted}}, nil
}

func (y *fakeYard) Heartbeat(_ context.Context, request *queenv1.HeartbeatRequest) (*queenv1.HeartbeatResponse, error) {
	if y.beats.Add(1) > y.beatsMax {
		stale, _ := status.New(codes.Aborted, "the lease is over").WithDetails(
			&errdetails.ErrorInfo{Reason: "STALE_EPOCH", Domain: "beeyard"})
		return nil, stale.Err()
	}
	select {
	case y.beaten <- struct{}{}:
	default:
	}
	return &queenv1.HeartbeatResponse{Lease: &Lease{LeaseId: request.GetLeaseId()}}, nil
}

func (y *fakeYard) ReleaseLease(_ context.Context, request *queenv1.ReleaseLeaseRequest) (*Work, error) {
	y.released = request
	return &Work{WorkId: "work-1", State: WorkCompleted}, nil
}

func (y *fakeYard) ListWork(_ context.Context, request *queenv1.ListWorkRequest) (*queenv1.ListWorkResponse, error) {
	if request.GetPageToken() == "" {
		return &queenv1.ListWorkResponse{Work: []*Work{{WorkId: "w2"}}, NextPageToken: "more"}, nil
	}
	return &queenv1.ListWorkResponse{Work: []*Work{{WorkId: "w1"}}}, nil
}

func dialYard(t *testing.T, beatsMax int64) (*Client, *fakeYard, *Grant) {
	t.Helper()
	yard := &fakeYard{beatsMax: beatsMax, beaten: make(chan struct{}, 1)}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	queenv1.RegisterLeaseServiceServer(server, yard)
	go server.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(server.Stop)
	client, err := Dial("passthrough:///fake", WithDialOptions(
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() })))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	grant, denial, err := client.RequestLease(t.Context(), &LeaseRequest{WorkerId: "w"})
	if err != nil || denial != nil {
		t.Fatalf("no lease: %v, %v", denial, err)
	}
	return client, yard, grant
}

func TestWorkIsCompletedWithItsBody(t *testing.T) {
	client, yard, grant := dialYard(t, 1<<40)
	work, err := client.HoldLease(t.Context(), grant, func(context.Context) (map[string]any, error) {
		<-yard.beaten
		return map[string]any{"files": 3.0}, nil
	})
	if err != nil || work.GetState() != WorkCompleted {
		t.Fatalf("got %v, %v", work, err)
	}
	if files := yard.released.GetCompleted().GetResult().AsMap()["files"]; files != 3.0 {
		t.Fatalf("the result is %v", yard.released)
	}
}

func TestABodyThatFailsFailsItsWork(t *testing.T) {
	client, yard, grant := dialYard(t, 1<<40)
	broken := errors.New("no disk")
	_, err := client.HoldLease(t.Context(), grant, func(context.Context) (map[string]any, error) {
		return nil, broken
	})
	if !errors.Is(err, broken) || yard.released.GetFailed().GetMessage() != "no disk" {
		t.Fatalf("got %v, released %v", err, yard.released)
	}
}

func TestALostLeaseCancelsTheBodyWithItsCause(t *testing.T) {
	client, yard, grant := dialYard(t, 2)
	_, err := client.HoldLease(t.Context(), grant, func(ctx context.Context) (map[string]any, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	if !errors.Is(err, ErrLeaseLost) {
		t.Fatalf("got %v", err)
	}
	if yard.released != nil {
		t.Fatal("something was said for a lease that is lost")
	}
}

func TestABodyThatIsStoppedGivesItsLeaseBack(t *testing.T) {
	client, yard, grant := dialYard(t, 1<<40)
	ctx, stop := context.WithCancel(t.Context())
	_, err := client.HoldLease(ctx, grant, func(held context.Context) (map[string]any, error) {
		stop()
		<-held.Done()
		return nil, held.Err()
	})
	if !errors.Is(err, context.Canceled) || !yard.released.GetFailed().GetRetriable() {
		t.Fatalf("got %v, released %v", err, yard.released)
	}
}

func TestADenialIsNoError(t *testing.T) {
	client, _, _ := dialYard(t, 0)
	grant, denial, err := client.RequestLease(t.Context(), &LeaseRequest{WorkerId: "late"})
	if grant != nil || err != nil || denial.GetRetryAfterMs() != 1000 {
		t.Fatalf("got %v, %v, %v", grant, denial, err)
	}
}

func TestWorkIsListedThroughAllPages(t *testing.T) {
	client, _, _ := dialYard(t, 0)
	var ids []string
	for work, err := range client.ListWork(t.Context(), WorkFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, work.GetWorkId())
	}
	if len(ids) != 2 || ids[0] != "w2" || ids[1] != "w1" {
		t.Fatalf("got %v", ids)
	}
}
