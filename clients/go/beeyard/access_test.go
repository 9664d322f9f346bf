package beeyard_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/beeyard/beeyard/clients/go/beeyard"
)

func TestATokenIsNotSentWhereOthersCouldReadIt(t *testing.T) {
	if _, err := beeyard.Dial("10.0.0.1:7700", beeyard.WithToken("secret")); !errors.Is(err, beeyard.ErrInsecureLink) {
		t.Errorf("dialled in the clear: %v", err)
	}
	for _, address := range []string{"127.0.0.1:7700", "[::1]:7700", "localhost:7700"} {
		client, err := beeyard.Dial(address, beeyard.WithToken("secret"))
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		client.Close()
	}
}

func TestFilesWithoutCertificatesAreSaidByName(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{empty, empty + ".missing"} {
		if _, err := beeyard.TLSFiles(ca, "", ""); err == nil {
			t.Errorf("%s was taken for authorities", ca)
		}
	}
}

// It needs a queen that wants certificates; tests/e2e/test_secure_links.py runs one.
func TestSecureQueenLetsInWhoShowsACertificate(t *testing.T) {
	address := os.Getenv("BEEYARD_SECURE_QUEEN")
	if address == "" {
		t.Skip("NOT RUN: set BEEYARD_SECURE_QUEEN, BEEYARD_CA, BEEYARD_CERT, BEEYARD_KEY and BEEYARD_TOKEN")
	}
	config, err := beeyard.TLSFiles(os.Getenv("BEEYARD_CA"), os.Getenv("BEEYARD_CERT"), os.Getenv("BEEYARD_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := beeyard.Dial(address, beeyard.WithTLS(config), beeyard.WithToken(os.Getenv("BEEYARD_TOKEN")))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	models, err := client.Models(t.Context())
	if err != nil || len(models) == 0 {
		t.Fatalf("models %v: %v", models, err)
	}
	bare, err := beeyard.TLSFiles(os.Getenv("BEEYARD_CA"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := beeyard.Dial(address, beeyard.WithTLS(bare))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Models(t.Context()); err == nil {
		t.Error("a client without a certificate was let in")
	}
}
