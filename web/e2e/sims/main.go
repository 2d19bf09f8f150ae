// Command sims runs the simulated platforms for the browser's tests and the demo of
// migrations until its standard input ends, and prints how they are reached as one
// line of JSON. With -config it also writes a configuration for the command line:
// a target for each, named as its platform.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/cloudstack/cssim"
	"ascend/internal/target/hyperv/hostshare/sambatest"
	"ascend/internal/target/hyperv/wsmansim"
	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

type simulated struct {
	Platform vm.Platform       `json:"platform"`
	Settings map[string]string `json:"settings"`
	Secrets  map[string]string `json:"secrets"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sims:", err)
		os.Exit(1)
	}
}

func run() error {
	config := flag.String("config", "", "write a configuration to this `file`, and the secrets beside it")
	flag.Parse()
	vc, err := vcsimtest.Start(vcsimtest.Small())
	if err != nil {
		return err
	}
	defer vc.Close()
	cs, err := cssim.Start(cssim.Options{})
	if err != nil {
		return err
	}
	defer cs.Close()
	prism, err := prismsim.Start(prismsim.Options{})
	if err != nil {
		return err
	}
	defer prism.Close()
	account := awssim.Start(awssim.Options{})
	defer account.Close()
	arm, err := armsim.Start(armsim.Options{})
	if err != nil {
		return err
	}
	defer arm.Close()
	samba, err := sambatest.Run(sambatest.Options{})
	if err != nil {
		return err
	}
	defer samba.Close()
	password := samba.Config.Password.Reveal()
	hv, err := wsmansim.Start(wsmansim.Options{Dir: samba.Dir, User: samba.Config.User, Password: password})
	if err != nil {
		return err
	}
	defer hv.Close()
	all := []simulated{
		{vm.VMware, map[string]string{"url": vc.Host, "username": vcsimtest.Username, "ca_file": vc.CAFile}, map[string]string{"password": vcsimtest.Password}},
		{vm.CloudStack, map[string]string{"url": cs.URL, "api_key": cssim.APIKey, "ca_file": cs.CAFile, "zone": cssim.Zone}, map[string]string{"secret_key": cssim.SecretKey}},
		{vm.Nutanix, map[string]string{"url": prism.URL, "user": prismsim.User, "ca_file": prism.CAFile, "cluster": prismsim.Cluster}, map[string]string{"password": prismsim.Password}},
		{vm.HyperV, map[string]string{"url": hv.URL, "user": samba.Config.User, "ca_file": hv.CAFile, "smb_address": samba.Config.Address}, map[string]string{"password": password}},
		{vm.AWS, map[string]string{"region": "eu-central-1", "endpoint": account.URL, "access-key": awssim.AccessKey}, map[string]string{"secret-key": awssim.SecretKey}},
		{vm.Azure, map[string]string{
			"subscription": armsim.Subscription, "tenant": armsim.Tenant, "client_id": armsim.ClientID, "resource_group": armsim.Group,
			"ca_file": arm.CAFile, "arm_endpoint": arm.URL, "authority_host": arm.URL,
		}, map[string]string{"client_secret": armsim.ClientSecret}},
	}
	if *config != "" {
		if err := write(*config, all); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		return err
	}
	// "break" has vCenter refuse to power machines on, "mend" ends that; each is
	// answered by a line.
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "break":
			vc.Model.Service.AddFaultRule(&simulator.FaultInjectionRule{
				MethodName: "PowerOnVM_Task", ObjectType: "*", ObjectName: "*", Probability: 1, Enabled: true,
				FaultType: simulator.FaultTypeCustom, Fault: &types.InsufficientMemoryResourcesFault{},
			})
		case "mend":
			vc.Model.Service.ClearFaultRules()
		}
		fmt.Println("done")
	}
	return in.Err()
}

// write writes the configuration; a secret stands in a file of its own.
func write(file string, all []simulated) error {
	targets := map[string]map[string]string{}
	for _, s := range all {
		t := maps.Clone(s.Settings)
		t["platform"] = string(s.Platform)
		for k, v := range s.Secrets {
			f := filepath.Join(filepath.Dir(file), string(s.Platform)+"."+k)
			if err := os.WriteFile(f, []byte(v), 0o600); err != nil {
				return err
			}
			t[k+"_file"] = f
		}
		targets[string(s.Platform)] = t
	}
	b, err := yaml.Marshal(map[string]any{"targets": targets})
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
