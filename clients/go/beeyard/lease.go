package beeyard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// The nouns of heavy work, under their own names.
type (
	// Work is one piece of heavy work.
	Work = queenv1.Work
	// WorkState is where in its life a piece of work is.
	WorkState = queenv1.WorkState
	// WorkRequest is a piece of work to queue. The zero value of a field leaves it to the queen; Kind is required.
	WorkRequest = queenv1.SubmitWorkRequest
	// LeaseRequest says that somebody has time; WorkerId is required.
	LeaseRequest = queenv1.RequestLeaseRequest
	// Lease is a permission to use units of one host for one piece of work, for a while.
	Lease = queenv1.Lease
	// Grant is a lease and its work, with the payload.
	Grant = queenv1.LeaseGranted
	// Denial says why there is no lease now, and when to ask again.
	Denial = queenv1.LeaseDenied
	// Capacity is how much heavy work the hosts can take now.
	Capacity = queenv1.Capacity
	// Tenant is what a tenant may have and has now.
	Tenant = queenv1.Tenant
)

// The states of work. Completed, failed and expired are final.
const (
	WorkQueued    = queenv1.WorkState_WORK_STATE_QUEUED
	WorkLeased    = queenv1.WorkState_WORK_STATE_LEASED
	WorkRunning   = queenv1.WorkState_WORK_STATE_RUNNING
	WorkCompleted = queenv1.WorkState_WORK_STATE_COMPLETED
	WorkFailed    = queenv1.WorkState_WORK_STATE_FAILED
	WorkExpired   = queenv1.WorkState_WORK_STATE_EXPIRED
)

// ErrLeaseLost is the cause of a body's cancellation: the lease is over, and nothing of the work counts any more.
var ErrLeaseLost = errors.New("beeyard: the lease is lost; stop the work")

// SubmitWork queues a piece of work and returns it once it is durable. Safe to repeat with a RequestId.
func (c *Client) SubmitWork(ctx context.Context, request *WorkRequest) (*Work, error) {
	return unary(ctx, c.leases.SubmitWork, request)
}

// GetWork returns one piece of work with its result.
func (c *Client) GetWork(ctx context.Context, workID string) (*Work, error) {
	return unary(ctx, c.leases.GetWork, &queenv1.GetWorkRequest{WorkId: workID})
}

// WorkFilter chooses the work of a listing. All fields must match; a zero field matches any.
type WorkFilter struct {
	// States that listed work may be in.
	States []WorkState
	// TenantID of the work.
	TenantID string
	// Kind of the work.
	Kind string
}

// ListWork returns the work that matches, newest first. It fetches page by page as the loop goes on, and stops after
// the first error.
func (c *Client) ListWork(ctx context.Context, filter WorkFilter) iter.Seq2[*Work, error] {
	return func(yield func(*Work, error) bool) {
		message := &queenv1.ListWorkRequest{
			PageSize: pageSize, States: filter.States, TenantId: filter.TenantID, Kind: filter.Kind,
		}
		for {
			page, err := unary(ctx, c.leases.ListWork, message)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, work := range page.GetWork() {
				if !yield(work, nil) {
					return
				}
			}
			if page.GetNextPageToken() == "" {
				return
			}
			message.PageToken = page.GetNextPageToken()
		}
	}
}

// CancelWork makes sure that a piece of work does not run (any more) and returns it.
func (c *Client) CancelWork(ctx context.Context, workID, reason string) (*Work, error) {
	return unary(ctx, c.leases.CancelWork, &queenv1.CancelWorkRequest{WorkId: workID, Reason: reason})
}

// RequestLease asks for the most urgent work that the caller can do; answered at once. Exactly one of Grant and Denial
// is set when the error is nil.
func (c *Client) RequestLease(ctx context.Context, request *LeaseRequest) (*Grant, *Denial, error) {
	answer, err := unary(ctx, c.leases.RequestLease, request)
	return answer.GetGranted(), answer.GetDenied(), err
}

// Heartbeat keeps a lease alive and returns it with its new expiry.
func (c *Client) Heartbeat(ctx context.Context, lease *Lease) (*Lease, error) {
	answer, err := unary(ctx, c.leases.Heartbeat, &queenv1.HeartbeatRequest{
		LeaseId: lease.GetLeaseId(), Epoch: lease.GetEpoch(), WorkerId: lease.GetWorkerId(),
	})
	return answer.GetLease(), err
}

// ReportProgress says how far the work is, 0 to 1, in a sentence and in figures; counts as a heartbeat.
func (c *Client) ReportProgress(
	ctx context.Context, lease *Lease, progress float64, message string, measurements map[string]float64,
) (*Lease, error) {
	answer, err := unary(ctx, c.leases.ReportProgress, &queenv1.ReportProgressRequest{
		LeaseId: lease.GetLeaseId(), Epoch: lease.GetEpoch(), WorkerId: lease.GetWorkerId(),
		Progress: progress, Message: message, Measurements: measurements,
	})
	return answer.GetLease(), err
}

// CompleteWork gives a lease back because its work is done. Safe to repeat.
func (c *Client) CompleteWork(ctx context.Context, lease *Lease, result map[string]any) (*Work, error) {
	done := &queenv1.WorkCompleted{}
	if len(result) > 0 {
		made, err := structpb.NewStruct(result)
		if err != nil {
			return nil, fmt.Errorf("beeyard: result: %w", err)
		}
		done.Result = made
	}
	return unary(ctx, c.leases.ReleaseLease, &queenv1.ReleaseLeaseRequest{
		LeaseId: lease.GetLeaseId(), Epoch: lease.GetEpoch(), WorkerId: lease.GetWorkerId(),
		Outcome: &queenv1.ReleaseLeaseRequest_Completed{Completed: done},
	})
}

// FailWork gives a lease back because its work broke. Safe to repeat.
func (c *Client) FailWork(ctx context.Context, lease *Lease, message string, retriable bool) (*Work, error) {
	failed := &queenv1.WorkFailed{Message: message, Retriable: retriable}
	return unary(ctx, c.leases.ReleaseLease, &queenv1.ReleaseLeaseRequest{
		LeaseId: lease.GetLeaseId(), Epoch: lease.GetEpoch(), WorkerId: lease.GetWorkerId(),
		Outcome: &queenv1.ReleaseLeaseRequest_Failed{Failed: failed},
	})
}

// RevokeLease takes a lease away and returns its work: queued again, or failed.
func (c *Client) RevokeLease(ctx context.Context, leaseID, reason string, requeue bool) (*Work, error) {
	return unary(ctx, c.leases.RevokeLease, &queenv1.RevokeLeaseRequest{
		LeaseId: leaseID, Reason: reason, Requeue: requeue,
	})
}

// Capacity tells how much heavy work the hosts can take now, and why.
func (c *Client) Capacity(ctx context.Context) (*Capacity, error) {
	return unary(ctx, c.leases.GetCapacity, &queenv1.GetCapacityRequest{})
}

// Tenants returns tenants with what they may have and what they have now, by id.
func (c *Client) Tenants(ctx context.Context) ([]*Tenant, error) {
	answer, err := unary(ctx, c.fleet.ListTenants, &queenv1.ListTenantsRequest{})
	return answer.GetTenants(), err
}

// HoldLease runs body while the lease of a grant is held, with heartbeats beside it, and gives the lease back with the
// body's outcome. If the lease is lost, the body's context is cancelled with the cause ErrLeaseLost, and that is the
// error of HoldLease.
func (c *Client) HoldLease(
	ctx context.Context, grant *Grant, body func(context.Context) (map[string]any, error),
) (*Work, error) {
	lease := grant.GetLease()
	held, lose := context.WithCancelCause(ctx)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		c.beat(held, lease, lose)
	}()
	result, err := body(held)
	isLost := errors.Is(context.Cause(held), ErrLeaseLost)
	lose(context.Canceled)
	<-beating
	if isLost {
		return nil, errors.Join(ErrLeaseLost, err)
	}
	// Whoever was stopped must still be able to say so.
	telling, stop := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer stop()
	if err != nil {
		work, telt := c.FailWork(telling, lease, err.Error(), ctx.Err() != nil)
		return work, errors.Join(err, telt)
	}
	return c.CompleteWork(telling, lease, result)
}

// beat heartbeats until ctx ends or the lease is lost: by the queen's word, or because no heartbeat got through for its
// time to live, counted from before the last one that did.
func (c *Client) beat(ctx context.Context, lease *Lease, lose context.CancelCauseFunc) {
	ttl := time.Duration(lease.GetTtlMs()) * time.Millisecond
	interval := time.Duration(lease.GetHeartbeatIntervalMs()) * time.Millisecond
	safeUntil := time.Now().Add(ttl)
	for {
		sent := time.Now()
		call, stop := context.WithDeadline(ctx, safeUntil)
		_, err := c.Heartbeat(call, lease)
		stop()
		wait := interval
		var refused *Error
		switch {
		case err == nil:
			safeUntil = sent.Add(ttl)
		case ctx.Err() != nil:
			return
		case errors.As(err, &refused) && isLeaseOver(refused.Reason):
			lose(ErrLeaseLost)
			return
		default:
			wait = backoffMin
		}
		if !time.Now().Before(safeUntil) {
			lose(ErrLeaseLost)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(wait, time.Until(safeUntil))):
		}
	}
}

func isLeaseOver(reason Reason) bool {
	return reason == ReasonStaleEpoch || reason == ReasonLeaseNotFound || reason == ReasonLeaseHolderMismatch
}
