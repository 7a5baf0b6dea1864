package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/seal"
)

func newKeygenCommand(a *app) *cobra.Command {
	var to string
	var signing bool
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make an age key pair to encrypt backups with",
		Long: `Writes an age identity, the secret half, to a file that did not exist, and prints its recipient, the
public half, for "recipients" in the configuration. Keep a copy of the identity where a disaster of
this machine and of the store cannot reach it: without it the backups cannot be read by anybody.

With --signing it is an ed25519 key that signs the reports of drills, for drill_signing_key_file: the secret half in FILE, the public
half, which auditors check them with, in FILE.pub, both as openssl has them.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if signing {
				if !cmd.Flags().Changed("file") {
					to = "requorum-drills.key"
				}
				return a.signingKey(to)
			}
			key, err := seal.NewKey()
			if err != nil {
				return err
			}
			text := fmt.Appendf(nil, "# created: %s\n# recipient: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), key.Recipient, key.Identity)
			if err := writeNew(to, text); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]string{"recipient": key.Recipient, "file": to})
			}
			a.say("the identity is in %s; keep a copy far from the backups", to)
			fmt.Fprintln(a.out, key.Recipient)
			return nil
		},
	}
	cmd.Flags().StringVarP(&to, "file", "f", "requorum.key", "`FILE` for the identity, or for the signing key (default then requorum-drills.key)")
	cmd.Flags().BoolVar(&signing, "signing", false, "make a key that signs the reports of drills")
	return cmd
}

// signingKey makes a key that signs reports.
func (a *app) signingKey(to string) error {
	signer, err := drills.NewSigner()
	if err != nil {
		return err
	}
	private, err := signer.PEM()
	if err != nil {
		return err
	}
	public, err := signer.Public().PEM()
	if err != nil {
		return err
	}
	if err := writeNew(to, private); err != nil {
		return err
	}
	if err := writeNew(to+".pub", public); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	if a.json() {
		return a.printJSON(map[string]string{"public_key": signer.Public().String(), "file": to, "public_file": to + ".pub"})
	}
	a.say("the signing key is in %s, its public half in %s.pub; give the latter to whoever checks reports", to, to)
	fmt.Fprintln(a.out, signer.Public())
	return nil
}
