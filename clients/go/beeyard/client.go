package beeyard

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"time"

	poolv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/pool/v1"
	queenv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/queen/v1"
	workerv1 "github.com/beeyard/beeyard/clients/go/gen/beeyard/worker/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// The nouns of the contract that a caller meets, under their own names.
type (
	// Job is a job as the queen knows it.
	Job = queenv1.Job
	// JobState is where in its life a job is.
	JobState = queenv1.JobState
	// Priority is how urgent a job is.
	Priority = queenv1.Priority
	// Requirements are what the device and the model must offer.
	Requirements = queenv1.Requirements
	// Placement says where a job should or should not run.
	Placement = queenv1.Placement
	// Explanation says why a job is where it is.
	Explanation = queenv1.JobExplanation
	// Pool is one host as the queen sees it.
	Pool = queenv1.Pool
	// Worker is one worker as the queen sees it.
	Worker = queenv1.Worker
	// Model is one model of the fleet.
	Model = queenv1.FleetModel
	// Fleet is the whole fleet at one moment.
	Fleet = queenv1.FleetSnapshot
	// HostSnapshot is what one host is and does.
	HostSnapshot = poolv1.HostSnapshot
	// FinishReason is why a generation ended by itself.
	FinishReason = workerv1.FinishReason
	// Usage is how many tokens a job used.
	Usage = workerv1.Usage
	// Timings are where a job's time went.
	Timings = workerv1.Timings
)

// The priority classes, the most urgent first.
const (
	PriorityInteractive = queenv1.Priority_PRIORITY_INTERACTIVE
	PriorityNormal      = queenv1.Priority_PRIORITY_NORMAL
	PriorityBatch       = queenv1.Priority_PRIORITY_BATCH
	PriorityBackground  = queenv1.Priority_PRIORITY_BACKGROUND
)

// The states of a job. Completed, failed, expired and cancelled are final.
const (
	JobQueued    = queenv1.JobState_JOB_STATE_QUEUED
	JobLeased    = queenv1.JobState_JOB_STATE_LEASED
	JobRunning   = queenv1.JobState_JOB_STATE_RUNNING
	JobCompleted = queenv1.JobState_JOB_STATE_COMPLETED
	JobFailed    = queenv1.JobState_JOB_STATE_FAILED
	JobExpired   = queenv1.JobState_JOB_STATE_EXPIRED
	JobCancelled = queenv1.JobState_JOB_STATE_CANCELLED
)

// Client speaks to one queen. Use it from as many goroutines as you like; close it once.
type Client struct {
	connection *grpc.ClientConn
	inference  queenv1.InferenceServiceClient
	fleet      queenv1.FleetServiceClient
	policies   queenv1.PolicyServiceClient
	leases     queenv1.LeaseServiceClient
}

// Option changes how Dial connects.
type Option func(*dialing)

type dialing struct {
	credentials credentials.TransportCredentials
	keepalive   keepalive.ClientParameters
	token       string
	extra       []grpc.DialOption
}

// WithTLS encrypts the connection. Without it the connection is plain, which a queen takes on loopback only.
func WithTLS(config *tls.Config) Option {
	return func(d *dialing) { d.credentials = credentials.NewTLS(config) }
}

// WithKeepalive sets after how much silence the connection is probed while a call runs (gRPC for Go allows no less
// than 10 s) and how long a probe may stay unanswered. The defaults are 10 s and 3 s.
func WithKeepalive(silence, timeout time.Duration) Option {
	return func(d *dialing) { d.keepalive = keepalive.ClientParameters{Time: silence, Timeout: timeout} }
}

// WithDialOptions hands options on to gRPC, such as interceptors or a dialer of your own.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(d *dialing) { d.extra = append(d.extra, options...) }
}

// Dial returns a client of the queen at HOST:PORT. It does not wait for the connection: a queen that is not there is
// reported by the first call.
func Dial(address string, options ...Option) (*Client, error) {
	d := dialing{
		credentials: insecure.NewCredentials(),
		keepalive:   keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout},
	}
	for _, option := range options {
		option(&d)
	}
	shown, err := d.shown(address)
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(d.credentials),
		grpc.WithKeepaliveParams(d.keepalive),
		grpc.WithConnectParams(connectParams()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
	}, append(shown, d.extra...)...)...)
	if err != nil {
		return nil, fmt.Errorf("beeyard: address of the queen: %w", err)
	}
	return &Client{
		connection: connection,
		inference:  queenv1.NewInferenceServiceClient(connection),
		fleet:      queenv1.NewFleetServiceClient(connection),
		policies:   queenv1.NewPolicyServiceClient(connection),
		leases:     queenv1.NewLeaseServiceClient(connection),
	}, nil
}

// Close ends every call of the client. Jobs go on.
func (c *Client) Close() error {
	return c.connection.Close()
}

// Submit submits a job and returns once it is durable. While the link is broken, or the queen is shutting down, it tries
// again under the same request id, so that the job is one whatever became of the tries before: until the context's
// deadline, or for two seconds if it has none. A queen that refuses the job is not asked again.
func (c *Client) Submit(ctx context.Context, request Request) (*Job, error) {
	message, err := request.submit()
	if err != nil {
		return nil, err
	}
	return untilTaken(ctx, func() (*Job, error) { return unary(ctx, c.inference.SubmitJob, message) })
}

// Get returns one job.
func (c *Client) Get(ctx context.Context, jobID string) (*Job, error) {
	return unary(ctx, c.inference.GetJob, &queenv1.GetJobRequest{JobId: jobID})
}

// Cancel cancels a job and returns it. An ended job is returned as it is; no token is delivered after the answer.
func (c *Client) Cancel(ctx context.Context, jobID string) (*Job, error) {
	return unary(ctx, c.inference.CancelJob, &queenv1.CancelJobRequest{JobId: jobID})
}

// Explain says why a job waits, or why it ran where it ran.
func (c *Client) Explain(ctx context.Context, jobID string) (*Explanation, error) {
	return unary(ctx, c.inference.ExplainJob, &queenv1.ExplainJobRequest{JobId: jobID})
}

// Filter chooses the jobs of a listing. All fields must match; a zero field matches any job.
type Filter struct {
	// States that a listed job may be in.
	States []JobState
	// TenantID of the job.
	TenantID string
	// Model that the job asked for.
	Model string
}

// List returns the jobs that match, newest first. It fetches page by page as the loop goes on, and stops after the
// first error.
func (c *Client) List(ctx context.Context, filter Filter) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		message := &queenv1.ListJobsRequest{
			PageSize: pageSize, States: filter.States, TenantId: filter.TenantID, Model: filter.Model,
		}
		for {
			page, err := unary(ctx, c.inference.ListJobs, message)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, job := range page.GetJobs() {
				if !yield(job, nil) {
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

// Pools returns the hosts that have reported, by id.
func (c *Client) Pools(ctx context.Context) ([]*Pool, error) {
	answer, err := unary(ctx, c.fleet.ListPools, &queenv1.ListPoolsRequest{})
	return answer.GetPools(), err
}

// Workers returns the workers that are attached or that a pool reports, by id. An empty pool id or model means any.
func (c *Client) Workers(ctx context.Context, poolID, model string) ([]*Worker, error) {
	answer, err := unary(ctx, c.fleet.ListWorkers, &queenv1.ListWorkersRequest{PoolId: poolID, Model: model})
	return answer.GetWorkers(), err
}

// Models returns every model that some pool or worker offers, by name.
func (c *Client) Models(ctx context.Context) ([]*Model, error) {
	answer, err := unary(ctx, c.fleet.ListModels, &queenv1.ListModelsRequest{})
	return answer.GetModels(), err
}

// WatchFleet returns the fleet at once and again after each change, at most every minInterval (100 ms to a minute; 0 for
// a second). It stops after the first error; leaving the loop ends the call.
func (c *Client) WatchFleet(ctx context.Context, minInterval time.Duration) iter.Seq2[*Fleet, error] {
	return func(yield func(*Fleet, error) bool) {
		call, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.fleet.WatchFleet(call, &queenv1.WatchFleetRequest{MinIntervalMs: minInterval.Milliseconds()})
		for err == nil {
			var fleet *Fleet
			if fleet, err = stream.Recv(); err == nil && !yield(fleet, nil) {
				return
			}
		}
		yield(nil, fromRPC(ctx, err))
	}
}

// unary makes one call, with a deadline in any case.
func unary[Q, A any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	return within(ctx, callTimeout, method, request)
}

// patient makes one call that tries a policy, which takes longer than other calls.
func patient[Q, A any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	return within(ctx, policyTimeout, method, request)
}

func within[Q, A any](ctx context.Context, most time.Duration, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	answer, err := method(bounded, request)
	// The caller's context, not the bounded one: running into our own bound is the queen's silence, not the caller's wish.
	return answer, fromRPC(ctx, err)
}
