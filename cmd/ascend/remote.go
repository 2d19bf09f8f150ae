package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"ascend/internal/client"
	"ascend/internal/secret"
	"ascend/internal/server/api"
	apijobs "ascend/internal/server/jobs"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// remoteFlags say which server a command speaks to; none: this machine does the
// work itself.
type remoteFlags struct {
	server, context, caFile, fingerprint, tokenFile string
}

func (r *remoteFlags) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&r.server, "server", "", "`URL` of an ascend server that does the work (default $ASCEND_SERVER; see: ascend login)")
	f.StringVar(&r.context, "context", "", "`name` of a server in the contexts file (default $ASCEND_CONTEXT)")
	f.StringVar(&r.caFile, "server-ca", "", "`file` of certificates that are trusted for the server")
	f.StringVar(&r.fingerprint, "server-fingerprint", "", "`SHA-256` of the only certificate that is believed, as the server prints it")
	f.StringVar(&r.tokenFile, "token-file", "", "`file` of the API token (default: $ASCEND_TOKEN, or the context's)")
}

func (a *app) contextsFile() string {
	if p := os.Getenv("ASCEND_CONTEXTS"); p != "" {
		return p
	}
	return filepath.Join(filepath.Dir(a.configFile()), "contexts.yaml")
}

// remote tells whether a server does the work.
func (a *app) remote() bool {
	return a.rem.server != "" || a.rem.context != "" || os.Getenv("ASCEND_SERVER") != "" || os.Getenv("ASCEND_CONTEXT") != ""
}

// client is a client of the server that is named.
func (a *app) client() (*client.Client, error) {
	r := a.rem
	if r.server == "" && r.context == "" {
		r.server, r.context = os.Getenv("ASCEND_SERVER"), os.Getenv("ASCEND_CONTEXT")
	}
	all, err := client.OpenContexts(a.contextsFile())
	if err != nil {
		return nil, err
	}
	if r.context == "" && r.server == "" {
		r.context = all.Current
	}
	name, x := "", &client.Context{}
	switch {
	case r.context != "":
		if name = r.context; r.server != "" {
			return nil, usageError{errors.New("--server and --context say the same: give one")}
		}
		if x, err = all.Find(name); err != nil {
			return nil, withHint(err, "ascend login URL --context %s", name)
		}
	case r.server != "":
		x.Server = r.server
		for n, c := range all.Contexts { // signed in there before
			if strings.TrimRight(c.Server, "/") == strings.TrimRight(r.server, "/") {
				name, x = n, c
			}
		}
	default:
		return nil, withHint(errors.New("no server is named"), "--server URL, or: ascend login URL")
	}
	c := client.Config{URL: x.Server, CAFile: x.CAFile, Fingerprint: x.Fingerprint}
	if r.caFile != "" {
		c.CAFile = r.caFile
	}
	if r.fingerprint != "" {
		c.Fingerprint = r.fingerprint
	}
	switch t := os.Getenv("ASCEND_TOKEN"); {
	case r.tokenFile != "":
		b, err := os.ReadFile(r.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read token: %w", err)
		}
		c.Token = secret.New(strings.TrimSpace(string(b)))
	case t != "":
		c.Token = secret.New(t)
	default:
		if c.Token, err = x.Token(name); err != nil {
			return nil, err
		}
	}
	return client.New(c)
}

// remotely gives commands that a server can do the server's way too: the same
// command line, with --server or --context.
func (a *app) remotely(root *cobra.Command) {
	for path, run := range map[string]func(*cobra.Command, []string, *client.Client) error{
		"backups ls": a.remoteBackups, "backups show": a.remoteBackup, "plan": a.remotePlan, "restore": a.remoteRestore, "apply": a.remoteApply, "undo": a.remoteVerb(client.UndoJob),
		"jobs ls": a.remoteJobs, "jobs show": a.remoteShow, "jobs logs": a.remoteLog, "jobs retry": a.remoteVerb(client.RetryJob),
		"jobs cancel": a.remoteVerb(client.CancelJob), "jobs undo": a.remoteVerb(client.UndoJob), "target ls": a.remoteTargets, "target add": a.remoteTargetAdd, "target rm": a.remoteTargetRm,
		"target validate": a.remoteValidate, "target inventory": a.remoteInventory, "target settings": a.remoteSettings,
	} {
		c, _, err := root.Find(strings.Fields(path))
		if err != nil || c.RunE == nil {
			panic("no command " + path)
		}
		local, args, before := c.RunE, c.Args, c.PreRunE
		c.Args = func(c *cobra.Command, list []string) error {
			return args(c, list)
		}
		c.PreRunE = func(c *cobra.Command, list []string) error {
			if before == nil || a.remote() {
				return nil
			}
			return before(c, list)
		}
		c.RunE = func(c *cobra.Command, list []string) error {
			if !a.remote() {
				return local(c, list)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			return hintOf(run(c, list, cl))
		}
	}
}

// relax takes the flags off the list of required ones that a server does without.
func (a *app) relax(c *cobra.Command) {
	if f := c.Flags().Lookup("repo"); a.remote() && f != nil {
		delete(f.Annotations, cobra.BashCompOneRequiredFlag)
	}
}

// hintOf gives the server's hints the command line's form.
func hintOf(err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		if errors.Is(err, client.ErrUnreachable) {
			return withHint(err, "is the server running, and is this its URL?")
		}
		return err
	}
	switch {
	case e.Code == "sign-in" || e.Code == "bad-token":
		return withHint(err, "ascend login URL, or give --token-file")
	case e.Code == "consent-needed" || e.Code == "plan-stopped":
		return refusedError{withHint(err, "%s", e.Hint)}
	case e.Hint != "":
		return withHint(err, "%s", e.Hint)
	}
	return err
}

func (a *app) remoteBackups(c *cobra.Command, _ []string, cl *client.Client) error {
	q := url.Values{}
	if repo := flagOf(c, "repo"); repo != "" {
		q.Set("repository", repo)
	}
	list, err := client.All[api.BackupRow](c.Context(), cl, client.ListBackups, client.Request{Query: q}, 0)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"ID", "REPOSITORY", "VM", "CREATED", "TYPE", "ORIGIN", "DISKS", "SIZE", ""}}
	for _, b := range list {
		fault := ""
		if b.Fault != "" {
			fault = "BROKEN: " + clean(b.Fault)
		}
		rows = append(rows, []string{b.ID, b.Repository, clean(b.VM), when(b.Created), string(b.Type), string(b.Origin), fmt.Sprint(b.Disks), vm.FormatSize(b.Bytes), fault})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func flagOf(c *cobra.Command, name string) string {
	if f := c.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// remoteFind is the backup that a reference names: its id, or its machine's name
// (the newest that is whole).
func remoteFind(ctx context.Context, cl *client.Client, repo, ref string) (string, error) {
	_, err := client.Do[api.BackupDetails](ctx, cl, client.GetBackup, client.Request{ID: ref})
	var e *client.Error
	if err == nil {
		return ref, nil
	}
	if !errors.As(err, &e) || e.Status != 404 && e.Status != 422 {
		return "", err
	}
	q := url.Values{"vm": {ref}, "state": {"good"}}
	if repo != "" {
		q.Set("repository", repo)
	}
	list, err := client.All[api.BackupRow](ctx, cl, client.ListBackups, client.Request{Query: q}, 1)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", withHint(fmt.Errorf("no backup that is whole answers to %q", ref), "see: ascend backups ls")
	}
	return list[0].ID, nil
}

func (a *app) remoteBackup(c *cobra.Command, args []string, cl *client.Client) error {
	id, err := remoteFind(c.Context(), cl, flagOf(c, "repo"), args[0])
	if err != nil {
		return err
	}
	b, err := client.Do[api.BackupDetails](c.Context(), cl, client.GetBackup, client.Request{ID: id})
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, b)
	}
	rows := [][]string{{"backup", b.ID}, {"repository", b.Repository}, {"vm", clean(b.VM)}, {"created", when(b.Created)}, {"type", string(b.Type)}, {"origin", string(b.Origin)}}
	if b.Fault != "" {
		rows = append(rows, []string{"BROKEN", clean(b.Fault)})
	}
	if b.Machine != nil {
		rows = append(rows, machineRows(b.Machine)...)
	}
	for _, d := range b.DiskList {
		rows = append(rows, []string{fmt.Sprintf("disk %d", d.Index), fmt.Sprintf("%s  %s, %s on disk  %s", d.Format, vm.FormatSize(d.Size), vm.FormatSize(d.Bytes), clean(d.Path))})
	}
	for _, n := range b.Notes {
		rows = append(rows, []string{"note", clean(n)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

// remoteWish is what the flags want, in the API's words.
func remoteWish(c *cobra.Command) (w wishBody, err error) {
	list := func(name string) []string {
		v, _ := c.Flags().GetStringArray(name)
		return v
	}
	w.Name, w.Firmware, w.Format, w.Path = flagOf(c, "name"), strings.ToLower(flagOf(c, "firmware")), flagOf(c, "format"), flagOf(c, "path")
	w.Compress, _ = c.Flags().GetBool("compress")
	w.PowerOn, _ = c.Flags().GetBool("power-on")
	if flagOf(c, "machine") != "" || flagOf(c, "source-format") != "" {
		return w, usageError{errors.New("--machine and --source-format are for backups on this machine, not on a server")}
	}
	if s := flagOf(c, "cpus"); s != "" {
		m := &vm.Machine{}
		if err := parseCPUs(s, m); err != nil {
			return w, err
		}
		w.CPU = &m.CPU
	}
	if s := flagOf(c, "memory"); s != "" {
		if w.Memory, err = vm.ParseSize(s); err != nil {
			return w, usageError{err}
		}
	}
	if w.FormatOpts, err = imageOptions(list("option")); err != nil {
		return w, usageError{err}
	}
	if w.Options, err = keyValues(list("set")); err != nil {
		return w, usageError{err}
	}
	if w.Mapping.Fields, err = keyValues(list("place")); err != nil {
		return w, usageError{err}
	}
	rules := func(args []string) (out []ruleBody) {
		for _, s := range args {
			from, to, ok := strings.Cut(s, "=")
			if !ok {
				from, to = "*", s
			}
			out = append(out, ruleBody{from, to})
		}
		slices.SortStableFunc(out, func(x, y ruleBody) int { // the one for all comes last
			return strings.Compare(map[bool]string{true: "1"}[x.From == "*"], map[bool]string{true: "1"}[y.From == "*"])
		})
		return out
	}
	w.Mapping.Networks, w.Mapping.Storage = rules(list("network")), rules(list("storage"))
	return w, nil
}

type ruleBody struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type wishBody struct {
	Name       string            `json:"name,omitempty"`
	CPU        *vm.CPU           `json:"cpu,omitempty"`
	Memory     int64             `json:"memory,omitempty"`
	Firmware   string            `json:"firmware,omitempty"`
	Format     string            `json:"format,omitempty"`
	FormatOpts map[string]string `json:"format_options,omitempty"`
	Compress   bool              `json:"compress,omitempty"`
	Path       string            `json:"path,omitempty"`
	Mapping    struct {
		Networks []ruleBody        `json:"networks,omitempty"`
		Storage  []ruleBody        `json:"storage,omitempty"`
		Fields   map[string]string `json:"fields,omitempty"`
	} `json:"mapping"`
	Options map[string]string `json:"options,omitempty"`
	PowerOn bool              `json:"power_on,omitempty"`
}

func (a *app) remoteMakePlan(c *cobra.Command, args []string, cl *client.Client) (api.Plan, error) {
	if len(args) != 1 {
		return api.Plan{}, usageError{errors.New("with a server, name one backup")}
	}
	w, err := remoteWish(c)
	if err != nil {
		return api.Plan{}, err
	}
	id, err := remoteFind(c.Context(), cl, flagOf(c, "repo"), args[0])
	if err != nil {
		return api.Plan{}, err
	}
	return client.Do[api.Plan](c.Context(), cl, client.MakePlan, client.Request{Body: map[string]any{"backup": id, "target": flagOf(c, "to"), "wish": w}, Key: newKey()})
}

func newKey() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }

func (a *app) remotePlan(c *cobra.Command, args []string, cl *client.Client) error {
	p, err := a.remoteMakePlan(c, args, cl)
	if err != nil {
		return err
	}
	if a.json {
		err = printJSON(c, p)
	} else {
		printPlan(c.OutOrStdout(), p.Plan)
		a.note("\nplan %s; carry it out with: ascend apply %s", p.ID, p.ID)
	}
	if err == nil && p.Stopped {
		return refusedError{errors.New("the plan has critical findings")}
	}
	return err
}

func (a *app) remoteRestore(c *cobra.Command, args []string, cl *client.Client) error {
	p, err := a.remoteMakePlan(c, args, cl)
	if err != nil {
		return err
	}
	if !a.quiet && !a.json {
		printPlan(os.Stderr, p.Plan)
	}
	accept, _ := c.Flags().GetBool("accept")
	keep, _ := c.Flags().GetBool("keep")
	noVerify, _ := c.Flags().GetBool("no-verify")
	o := apijobs.Options{Keep: keep, NoVerify: noVerify}
	o.Workers, _ = c.Flags().GetInt("workers")
	o.Disks, _ = c.Flags().GetInt("parallel-disks")
	if s := flagOf(c, "limit"); s != "" {
		if o.Bandwidth, err = vm.ParseSize(s); err != nil {
			return usageError{err}
		}
	}
	if err := consent(p.Plan, accept); err != nil {
		return err
	}
	return a.submitAndFollow(c, cl, p, p.Consent, o, flagOf(c, "receipt"))
}

func (a *app) submitAndFollow(c *cobra.Command, cl *client.Client, p api.Plan, accept []string, o apijobs.Options, receipt string) error {
	j, err := client.Do[apijobs.Job](c.Context(), cl, client.SubmitJob, client.Request{Body: api.NewJob{Plan: p.ID, Accept: accept, Options: o}, Key: newKey()})
	if err != nil {
		return err
	}
	a.note("job %s on %s; it goes on without this command", j.ID, p.Target)
	if err := a.followJob(c, cl, j.ID); err != nil {
		return err
	}
	if receipt != "" {
		b, err := cl.Bytes(c.Context(), client.JobReceipt, client.Request{ID: j.ID})
		if err == nil {
			err = os.WriteFile(receipt, b, 0o644)
		}
		if err != nil {
			return fmt.Errorf("cannot write receipt: %w", err)
		}
	}
	return nil
}

func (a *app) remoteJobs(c *cobra.Command, _ []string, cl *client.Client) error {
	list, err := client.All[apijobs.Job](c.Context(), cl, client.ListJobs, client.Request{}, 200)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"JOB", "STATUS", "%", "VM", "TARGET", "CREATED", ""}}
	for _, j := range list {
		rows = append(rows, []string{j.ID, j.Status, fmt.Sprintf("%.0f", j.Percent), clean(j.Name), j.Target.Name, when(j.Created), clean(j.Error)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func (a *app) remoteVerb(call client.Call) func(*cobra.Command, []string, *client.Client) error {
	return func(c *cobra.Command, args []string, cl *client.Client) error {
		j, err := client.Do[apijobs.Job](c.Context(), cl, call, client.Request{ID: args[0]})
		if err != nil {
			return err
		}
		if a.json {
			return printJSON(c, j)
		}
		a.note("job %s is %s", j.ID, j.Status)
		return nil
	}
}

func (a *app) remoteTargets(c *cobra.Command, _ []string, cl *client.Client) error {
	list, err := client.All[api.Target](c.Context(), cl, client.ListTargets, client.Request{}, 0)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, list)
	}
	rows := [][]string{{"NAME", "PLATFORM", "MY ROLE", "CHECKED", "NOTE"}}
	for _, t := range list {
		checked := "never"
		if t.Checked != nil {
			checked = when(*t.Checked) + map[bool]string{true: " ok", false: " FAILED"}[*t.Healthy]
		}
		rows = append(rows, []string{t.ID, string(t.Platform), string(t.Role), checked, clean(t.Note)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func (a *app) remotePlatform(ctx context.Context, cl *client.Client, p string) (api.Platform, error) {
	list, err := client.Do[api.Page[api.Platform]](ctx, cl, client.Platforms, client.Request{})
	if err != nil {
		return api.Platform{}, err
	}
	for _, x := range list.Items {
		if strings.EqualFold(string(x.Platform), p) {
			return x, nil
		}
	}
	return api.Platform{}, usageError{fmt.Errorf("the server restores to no platform %q", p)}
}

func (a *app) remoteTargetAdd(c *cobra.Command, args []string, cl *client.Client) error {
	p, err := a.remotePlatform(c.Context(), cl, flagOf(c, "platform"))
	if err != nil {
		return err
	}
	set, _ := c.Flags().GetStringArray("set")
	values, err := keyValues(set)
	if err != nil {
		return usageError{err}
	}
	// Secrets are read here as they are for the configuration file, and sent.
	s, err := readSettings(args[0], target.Kind{Platform: p.Platform, Settings: p.Settings}, values)
	if err != nil {
		return usageError{err}
	}
	secrets := map[string]string{}
	for k, v := range s.Secrets {
		if !v.Empty() {
			secrets[k] = v.Reveal()
		}
	}
	body := map[string]any{"id": args[0], "platform": p.Platform, "settings": s.Values, "secrets": secrets}
	t, err := client.Do[api.Target](c.Context(), cl, client.AddTarget, client.Request{Body: body, Key: newKey()})
	if err != nil {
		return err
	}
	a.note("added %s to the server; check it with: ascend target validate %s", t.ID, t.ID)
	return nil
}

func (a *app) remoteTargetRm(c *cobra.Command, args []string, cl *client.Client) error {
	_, err := cl.Bytes(c.Context(), client.DeleteTarget, client.Request{ID: args[0]})
	return err
}

func (a *app) remoteValidate(c *cobra.Command, args []string, cl *client.Client) error {
	checks, err := client.Do[api.Checks](c.Context(), cl, client.ValidateTarget, client.Request{ID: args[0]})
	if err != nil {
		return err
	}
	if a.json {
		err = printJSON(c, checks.Checks)
	} else {
		rows := [][]string{}
		for _, k := range checks.Checks {
			rows = append(rows, []string{map[bool]string{true: "ok", false: "FAILED"}[k.OK], k.Name, clean(k.Detail)})
			if !k.OK && k.Hint != "" {
				rows = append(rows, []string{"", "", "hint: " + k.Hint})
			}
		}
		table(c.OutOrStdout(), rows)
	}
	if err == nil && !checks.OK {
		return errors.New("not every check passed")
	}
	return err
}

func (a *app) remoteInventory(c *cobra.Command, args []string, cl *client.Client) error {
	inv, err := client.Do[target.Inventory](c.Context(), cl, client.TargetInventory, client.Request{ID: args[0]})
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, inv)
	}
	printInventory(c.OutOrStdout(), &inv)
	return nil
}

func (a *app) remoteSettings(c *cobra.Command, args []string, cl *client.Client) error {
	p, err := a.remotePlatform(c.Context(), cl, args[0])
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, p.Settings)
	}
	rows := [][]string{{"SETTING", "", "MEANING"}}
	for _, s := range p.Settings {
		rows = append(rows, []string{s.Name, map[bool]string{true: "required"}[s.Required], s.Help})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

// remoteCommands are those that only a server has.
func (a *app) remoteCommands(root *cobra.Command) {
	j, _, err := root.Find([]string{"jobs"})
	if err != nil {
		panic(err)
	}
	j.AddCommand(&cobra.Command{
		Use: "watch JOB", Short: "follow a job of a server until it comes to rest", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			return hintOf(a.followJob(c, cl, args[0]))
		},
	})
}

func (a *app) remoteApply(c *cobra.Command, args []string, cl *client.Client) error {
	ref := args[0]
	accept, _ := c.Flags().GetBool("accept")
	keep, _ := c.Flags().GetBool("keep")
	var p api.Plan
	var err error
	if b, ferr := os.ReadFile(ref); ferr == nil {
		p, err = client.Do[api.Plan](c.Context(), cl, client.ImportPlan, client.Request{Body: map[string]string{"document": string(b)}, Key: newKey()})
	} else {
		p, err = client.Do[api.Plan](c.Context(), cl, client.Call{Method: "GET", Path: "/plans/{id}"}, client.Request{ID: ref})
	}
	if err != nil {
		return err
	}
	if !a.quiet && !a.json {
		printPlan(os.Stderr, p.Plan)
	}
	if err := consent(p.Plan, accept); err != nil {
		return err
	}
	return a.submitAndFollow(c, cl, p, p.Consent, apijobs.Options{Keep: keep}, flagOf(c, "receipt"))
}

func (a *app) remoteShow(c *cobra.Command, args []string, cl *client.Client) error {
	d, err := client.Do[api.JobDetails](c.Context(), cl, client.GetJob, client.Request{ID: args[0]})
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, d)
	}
	table(c.OutOrStdout(), jobRows(d))
	return nil
}

func (a *app) remoteLog(c *cobra.Command, args []string, cl *client.Client) error {
	b, err := cl.Bytes(c.Context(), client.JobLog, client.Request{ID: args[0]})
	if err == nil {
		for l := range strings.Lines(string(b)) {
			fmt.Fprintln(c.OutOrStdout(), clean(strings.TrimSuffix(l, "\n")))
		}
	}
	return err
}

// jobFailed is a job that did not end as it should.
func jobFailed(j apijobs.Job) error {
	switch j.Status {
	case "completed", "undone":
		return nil
	case "cancelled":
		return errors.New("the restore was cancelled; what it made is removed")
	}
	err := fmt.Errorf("the restore has failed: %s", clean(j.Error))
	if j.RolledBack {
		return withHint(err, "what it made is removed; restore again")
	}
	return withHint(err, "ascend jobs retry %s, or remove what was made: ascend jobs undo %s", j.ID, j.ID)
}

func decodeEvent[T any](e client.Event) (T, error) {
	var v T
	err := json.Unmarshal(e.Data, &v)
	return v, err
}
