package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ascend/internal/client"
	"ascend/internal/secret"
	"ascend/internal/server/api"
)

func (a *app) loginCommand() *cobra.Command {
	var inKeyring bool
	c := &cobra.Command{
		Use:   "login URL",
		Short: "remember a server and the API token for it",
		Long: `Remember a server and the API token for it, as a context; --context names it
(default: the server's host). The token is asked for, or read from --token-file
or standard input; it is kept in a file for this user only, or in the system's
keyring. Commands speak to the server with --context NAME or --server URL.`,
		Example: `  ascend login https://restore.example.org:8443 --context prod
  ascend --context prod jobs ls`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return hintOf(a.login(c, args[0], inKeyring)) },
	}
	c.Flags().BoolVar(&inKeyring, "keyring", false, "keep the token in the system's keyring")
	return c
}

func (a *app) login(c *cobra.Command, server string, inKeyring bool) error {
	name := a.rem.context
	if name == "" {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" {
			return usageError{fmt.Errorf("%q is not the URL of a server", server)}
		}
		name = u.Hostname()
	}
	if strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, ".") {
		return usageError{fmt.Errorf("%q is no name of a context", name)}
	}
	token, err := a.readToken()
	if err != nil {
		return err
	}
	x := &client.Context{Server: strings.TrimRight(server, "/"), CAFile: a.rem.caFile, Fingerprint: a.rem.fingerprint}
	cl, err := client.New(client.Config{URL: x.Server, Token: token, CAFile: x.CAFile, Fingerprint: x.Fingerprint})
	if err != nil {
		return err
	}
	me, err := client.Do[api.Me](c.Context(), cl, client.Me, client.Request{})
	if err != nil {
		return err
	}
	all, err := client.OpenContexts(a.contextsFile())
	if err != nil {
		return err
	}
	if err := all.StoreToken(name, x, token, inKeyring); err != nil {
		return err
	}
	all.Contexts[name], all.Current = x, name
	if err := all.Save(); err != nil {
		return err
	}
	a.note("%s on %s, role %s; use it with: --context %s", clean(me.Name), x.Server, me.Role, name)
	return nil
}

// readToken takes a token from where the user has it; never from an argument.
func (a *app) readToken() (secret.String, error) {
	if a.rem.tokenFile != "" {
		b, err := os.ReadFile(a.rem.tokenFile)
		return secret.New(strings.TrimSpace(string(b))), err
	}
	if t := os.Getenv("ASCEND_TOKEN"); t != "" {
		return secret.New(t), nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(os.Stderr, "API token: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		return secret.New(strings.TrimSpace(string(b))), err
	}
	s := bufio.NewScanner(os.Stdin)
	s.Scan()
	if t := strings.TrimSpace(s.Text()); t != "" {
		return secret.New(t), nil
	}
	return secret.String{}, withHint(errors.New("no token was given"), "make one in the web page or with: ascend server token")
}
