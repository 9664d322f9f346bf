package beeyard

import "time"

// Every bound of the client, in one place: nothing here waits, retries or buffers without one.
const (
	// keepaliveTime is how long a connection may be silent before it is probed. gRPC for Go allows no less.
	keepaliveTime = 10 * time.Second
	// keepaliveTimeout is how long a probe may stay unanswered.
	keepaliveTimeout = 3 * time.Second
	// callTimeout bounds a unary call whose context has no deadline.
	callTimeout = 10 * time.Second
	// policyTimeout bounds a call that tries a policy on a busy queen, and waits for others that are being tried.
	policyTimeout = 60 * time.Second
	// messageBytesMax is the queen's own limit for one message.
	messageBytesMax = 4 << 20

	// resumeWindow is how long a stream that was accepted tries to resume before it gives up: longer than a queen needs
	// to restart and its workers to come back. It starts anew with every event.
	resumeWindow = 60 * time.Second
	// streamEnd is how long a queen gets to end a connection behind the job's last event, before the connection is cut.
	streamEnd = time.Second
	// submitWindow is how long Submit tries without a deadline of the caller's: a queen that is not there should be
	// reported soon.
	submitWindow = 2 * time.Second
	// backoffMin and backoffMax bound the pause between two tries; they double in between.
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second
	// submitTriesMax bounds how often Infer submits a job whose acceptance is not known. It is small, since a queen that
	// is not there should be reported soon.
	submitTriesMax = 4

	// pageSize is how many jobs List asks for at a time.
	pageSize = 100
)
