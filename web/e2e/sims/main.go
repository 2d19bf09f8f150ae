// Command sims runs the simulated platforms for the browser's tests until its
// standard input ends, and prints how they are reached as one line of JSON.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

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
	err = json.NewEncoder(os.Stdout).Encode([]simulated{
		{vm.VMware, map[string]string{"url": vc.Host, "username": vcsimtest.Username, "ca_file": vc.CAFile}, map[string]string{"password": vcsimtest.Password}},
		{vm.CloudStack, map[string]string{"url": cs.URL, "api_key": cssim.APIKey, "ca_file": cs.CAFile, "zone": cssim.Zone}, map[string]string{"secret_key": cssim.SecretKey}},
		{vm.Nutanix, map[string]string{"url": prism.URL, "user": prismsim.User, "ca_file": prism.CAFile, "cluster": prismsim.Cluster}, map[string]string{"password": prismsim.Password}},
		{vm.HyperV, map[string]string{"url": hv.URL, "user": samba.Config.User, "ca_file": hv.CAFile, "smb_address": samba.Config.Address}, map[string]string{"password": password}},
		{vm.AWS, map[string]string{"region": "eu-central-1", "endpoint": account.URL, "access-key": awssim.AccessKey}, map[string]string{"secret-key": awssim.SecretKey}},
		{vm.Azure, map[string]string{
			"subscription": armsim.Subscription, "tenant": armsim.Tenant, "client_id": armsim.ClientID, "resource_group": armsim.Group,
			"ca_file": arm.CAFile, "arm_endpoint": arm.URL, "authority_host": arm.URL,
		}, map[string]string{"client_secret": armsim.ClientSecret}},
	})
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}
