// Command ascend restores virtual machine backups across platforms. Run
// "ascend help".
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"ascend/internal/qemu"
	"ascend/internal/target"
)

func main() {
	qemu.Main()
	os.Exit(run(os.Args[1:]))
}

// run is main without the exit, for the command-line tests.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() {
		// The first signal cancels and cleans up; a second one ends at once.
		signal.Reset(os.Interrupt, syscall.SIGTERM)
	})
	a := &app{}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(err)
}

// Exit codes; "ascend help exit-codes" explains them.
const (
	exitOK       = 0
	exitFailed   = 1 // the work failed
	exitUsage    = 2 // the command line is wrong
	exitRefused  = 3 // a plan has critical findings, or consent is missing
	exitMismatch = 4 // a digest, signature or verification does not match
	exitCanceled = 130
)

// app is what all commands share.
type app struct {
	configPath string
	stateDir   string
	quiet      bool
	json       bool    // JSON lines or a JSON document instead of text
	cfg        *config // once loaded
	rem        remoteFlags
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ascend",
		Short: "restore virtual machine backups to any platform",
		Long: `Ascend restores the backup of a virtual machine made on one platform to another.
Disks are never staged: what the target receives is computed while it is sent,
proven by digest, and resumed where it stopped.

Start here:
  ascend backups ls --repo DIR          what is there
  ascend plan BACKUP --repo DIR --to T  what would happen
  ascend restore BACKUP --repo DIR --to T
  ascend verify RECEIPT                 prove it again`,
		Example: `  ascend restore web01 --repo /backups --to local:/restored --format vmdk
  ascend restore disk.qcow2 --cpus 2 --memory 4G --firmware uefi --to vcenter1
  ascend convert -p -O vhdx disk.qcow2 disk.vhdx`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", "", "configuration `file` (default $ASCEND_CONFIG or ~/.config/ascend/config.yaml)")
	f.StringVar(&a.stateDir, "state-dir", "", "`folder` of jobs and receipts (default $ASCEND_STATE_DIR or ~/.local/state/ascend)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but errors and the result")
	f.BoolVar(&a.json, "json", false, "machine-readable output: a JSON document, or JSON lines while work is under way")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(a.backupsCommand(), a.applianceCommand(), a.bootProofCommand(), a.inspectCommand(), a.convertCommand(), a.planCommand(), a.applyCommand(), a.restoreCommand(),
		a.filesCommand(), a.jobsCommand(), a.runbookCommand(), a.undoCommand(), a.targetCommand(), a.verifyCommand(), a.rulesCommand(), a.matrixCommand(), a.pricesCommand(), a.versionCommand(), exitCodesTopic(),
		a.serveCommand(), a.workerCommand(), a.workersCommand(), a.serverCommand(), a.storeCommand(), a.loginCommand(), a.watchCommand())
	a.rem.register(root)
	a.remotely(root)
	a.remoteCommands(root)
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		a.relax(c)
		return usage(c.ValidateRequiredFlags())
	}
	usageOfArgs(root)
	return root
}

// usage makes an error one of the command line.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// usageOfArgs makes wrong arguments of a command and those below it mistakes in
// the command line.
func usageOfArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error { return usage(check(c, args)) }
	}
	for _, sub := range c.Commands() {
		usageOfArgs(sub)
	}
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "what the exit codes mean",
		Long: `0    done
1    the work failed; the message says why and what to do
2    the command line is wrong
3    refused: the plan has critical findings, or warnings without --accept
4    a digest, signature or verification does not match
130  cancelled by a signal; what was made is removed unless --keep was given`,
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// refusedError is a restore that is not begun.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// mismatchError is a proof that failed.
type mismatchError struct{ error }

func (e mismatchError) Unwrap() error { return e.error }

func exitCode(err error) int {
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.As(err, new(refusedError)):
		return exitRefused
	case errors.As(err, new(mismatchError)), errors.Is(err, target.ErrDigest):
		return exitMismatch
	case errors.Is(err, context.Canceled):
		return exitCanceled
	}
	return exitFailed
}
