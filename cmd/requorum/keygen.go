package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/seal"
)

func newKeygenCommand(a *app) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make an age key pair to encrypt backups with",
		Long: `Writes an age identity, the secret half, to a file that did not exist, and prints its recipient, the
public half, for "recipients" in the configuration. Keep a copy of the identity where a disaster of
this machine and of the store cannot reach it: without it the backups cannot be read by anybody.`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
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
	cmd.Flags().StringVarP(&to, "file", "f", "requorum.key", "`FILE` for the identity")
	return cmd
}
