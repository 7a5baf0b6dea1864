package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/config"
)

const rootHelp = `requorum backs etcd up, rebuilds a healthy cluster from the backup with one
command, and proves that the agents that live on it have come back.

Start here:
  requorum demo                    the whole job on this machine, in a minute
  requorum config check            is the configuration whole, does everything answer
  requorum backup CLUSTER          take a proven backup now
  requorum restore CLUSTER --plan  what a restore would do
  requorum restore CLUSTER         do it

Data goes to stdout, prose and progress to stderr. With -o json the data is JSON,
errors too; that is a contract, the text is not.`

const exitHelp = `Exit codes:
  0 ok                                12 cannot decrypt
  1 error                             13 verification failed
  2 usage or configuration            14 refused for safety; the message names the flag
  3 partly done                       15 etcd is healthy but the agents are not
  10 nothing to restore from          130 SIGINT, 143 SIGTERM
  11 another run holds the lock
"requorum check" has its own: 0 ok, 1 warning, 2 critical, 3 unknown.
`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "requorum",
		Short:         "etcd backup and restore with proof",
		Long:          rootHelp,
		Version:       thisVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains([]string{"table", "json"}, a.output) {
				return usage("-o %s: the output is table or json", a.output)
			}
			a.ready()
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.configFile, "config", "c", "", fmt.Sprintf("configuration `FILE` (default the first of %s)", joinOr(config.SearchPath())))
	flags.StringVarP(&a.output, "output", "o", "table", "`FORMAT` of the data on stdout: table or json")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no prose, no progress")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more on the way")
	only(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v; see %s --help", err, cmd.CommandPath())
	})
	root.SetUsageTemplate(root.UsageTemplate() + "{{if not .HasParent}}\n" + exitHelp + "{{end}}")

	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"try", "Try it:", []*cobra.Command{newDemoCommand(a)}},
		{"backups", "Backups:", []*cobra.Command{newBackupCommand(a), newListCommand(a), newShowCommand(a), newVerifyCommand(a),
			newExpireCommand(a), newCopyCommand(a), newExportCommand(a), newImportCommand(a)}},
		{"restore", "Restore:", []*cobra.Command{newRestoreCommand(a), newRollbackCommand(a), newReplaceMemberCommand(a), newRunsCommand(a)}},
		{"watch", "Look after:", []*cobra.Command{newServeCommand(a), newCheckCommand(a), newDrillCommand(a), newDrillsCommand(a), newSchedulesCommand(a)}},
		{"setup", "Set up:", []*cobra.Command{newConfigCommand(a), newKeygenCommand(a), newVersionCommand(a)}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(newMemberCommand(a))
	root.AddCommand(newHostAgentCommand(a))
	root.SetHelpCommandGroupID("setup")
	root.SetCompletionCommandGroupID("setup")
	return root
}

// only makes a command that does nothing but hold others show its help, and answer an unknown one as any other mistake on the command line.
func only(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		advice := "see " + cmd.CommandPath() + " --help"
		if meant := cmd.SuggestionsFor(args[0]); len(meant) > 0 {
			advice = "did you mean " + strings.Join(meant, " or ") + "?"
		}
		return usage("unknown command %q for %s; %s", args[0], cmd.CommandPath(), advice)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
}

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// exactArgs is cobra.ExactArgs with an error that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("%s is missing: %s", names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usage("too many arguments: %q; %s", args[len(names):], cmd.UseLine())
		}
		return nil
	}
}

// maxArgs is cobra.MaximumNArgs with an error that shows the right usage.
func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usage("too many arguments: %q; %s", args[n:], cmd.UseLine())
		}
		return nil
	}
}

func joinOr(items []string) string {
	if len(items) < 2 {
		return fmt.Sprint(items)
	}
	s := items[0]
	for _, item := range items[1 : len(items)-1] {
		s += ", " + item
	}
	return s + " or " + items[len(items)-1]
}
