package beeyard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
)

// ErrInsecureLink says that a token was not sent, since anybody on the way could have read it: use TLS.
var ErrInsecureLink = errors.New("beeyard: a token is not sent beyond this machine without TLS")

// WithToken shows a bearer token with every call. It travels over TLS, or to loopback; Dial returns ErrInsecureLink for
// anything else.
func WithToken(token string) Option {
	return func(d *dialing) { d.token = token }
}

// TLSFiles returns the configuration for WithTLS out of PEM files: the authorities that sign the queen's certificate,
// and, where queens want to see one, the client's own certificate and key; leave those two empty otherwise.
func TLSFiles(ca, cert, key string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("beeyard: authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("beeyard: authorities: %s holds no certificate in PEM", ca)
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert == "" && key == "" {
		return config, nil
	}
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("beeyard: own certificate: %w", err)
	}
	config.Certificates = []tls.Certificate{own}
	return config, nil
}

// bearer shows a token with every call.
type bearer struct {
	token    string
	isSecure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.isSecure }

// shown returns the options that show the token at an address.
func (d *dialing) shown(address string) ([]grpc.DialOption, error) {
	if d.token == "" {
		return nil, nil
	}
	isSecure := d.credentials.Info().SecurityProtocol == "tls"
	if !isSecure && !isLoopback(address) {
		return nil, ErrInsecureLink
	}
	return []grpc.DialOption{grpc.WithPerRPCCredentials(bearer{d.token, isSecure})}, nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
