package cssim

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// run carries a command out; Sim.mu is held.
func (s *Sim) run(c *command, a args) (any, *failure) {
	s.age()
	if fail := s.exists(a); fail != nil {
		return nil, fail
	}
	name := strings.ToLower(c.name)
	if list, ok := lists[name]; ok {
		rows := list.rows(s, a)
		if len(rows) == 0 {
			return entity{}, nil
		}
		count := len(rows)
		if size := int(a.number("pagesize")); size > 0 {
			from := min(int(max(a.number("page"), 1)-1)*size, count)
			rows = rows[from:min(from+size, count)]
		}
		return entity{"count": count, list.key: rows}, nil
	}
	f, ok := actions[name]
	if !ok {
		return nil, refuse(codeUnknown, "the simulator does not carry out %s", c.name)
	}
	if !c.async {
		return f(s, a)
	}
	if s.faults.job(name) {
		return s.newJob(nil, refuse(codeInternal, "simulated failure of %s", c.name), ""), nil
	}
	out, fail := f(s, a)
	if fail != nil && fail.code != codeInternal && fail.code != codeCapacity {
		return nil, fail // refused at once
	}
	id := a["id"]
	if e, ok := out.(entity); ok {
		for _, v := range e {
			if inner, ok := v.(entity); ok {
				id, _ = inner["id"].(string) // what has none tells none
			}
		}
	}
	return s.newJob(out, fail, id), nil
}

func (s *Sim) newJob(out any, fail *failure, id string) entity {
	j := newID()
	s.jobs[j] = &job{result: out, fail: fail}
	e := entity{"jobid": j}
	if id != "" {
		e["id"] = id
	}
	return e
}

// exists refuses identifiers of things that are not there: CloudStack looks them
// up before the command runs.
func (s *Sim) exists(a args) *failure {
	known := func(name string, ok func(string) bool) *failure {
		if v := a[name]; v != "" && v != "-1" && !ok(v) {
			return invalid("Unable to execute API command %s due to invalid value. Invalid parameter %s value=%s due to incorrect long value format, or entity does not exist or due to incorrect parameter annotation for the field in api cmd class.",
				strings.ToLower(a["command"]), name, v)
		}
		return nil
	}
	one := func(id string) func(string) bool { return func(v string) bool { return v == id } }
	in := func(list []entity) func(string) bool { return func(v string) bool { return find(list, v) != nil } }
	cmd := strings.ToLower(a["command"])
	checks := map[string]func(string) bool{
		"zoneid": one(s.zoneID), "clusterid": one(s.clusterID), "storageid": one(s.poolID), "domainid": one(s.domainID), "projectid": one(s.projectID),
		"serviceofferingid": in(s.offerings), "diskofferingid": in(s.diskOfferings), "overridediskofferingid": in(s.diskOfferings), "ostypeid": in(s.osTypes),
		"networkid":  in(s.networks),
		"templateid": func(v string) bool { return s.template(v) != nil }, "volumeid": func(v string) bool { return s.volume(v) != nil },
		"virtualmachineid": func(v string) bool { return s.machine(v) != nil || v == WorkerID && s.o.Devices != "" },
	}
	switch {
	case strings.HasSuffix(cmd, "volume"), cmd == "listvolumes":
		checks["id"] = checks["volumeid"]
	case strings.HasSuffix(cmd, "virtualmachine"), cmd == "listvirtualmachines":
		checks["id"] = checks["virtualmachineid"]
	case strings.HasSuffix(cmd, "template"), cmd == "listtemplates":
		checks["id"] = checks["templateid"]
	}
	for name, ok := range checks {
		if fail := known(name, ok); fail != nil {
			return fail
		}
	}
	return nil
}

// listing is a list command: the name of its rows and what they are.
type listing struct {
	key  string
	rows func(s *Sim, a args) []entity
}

// matching keeps rows whose fields are those of the parameters of the same names.
func matching(rows []entity, a args, names ...string) []entity {
	return slices.DeleteFunc(slices.Clone(rows), func(e entity) bool {
		return slices.ContainsFunc(names, func(n string) bool { return a[n] != "" && fmt.Sprint(e[n]) != a[n] })
	})
}

var lists = map[string]listing{
	"listapis": {"api", func(s *Sim, a args) []entity {
		var out []entity
		for _, c := range s.table {
			if !slices.Contains(s.o.Denied, c.name) {
				out = append(out, entity{"name": c.name, "isasync": c.async})
			}
		}
		return matching(out, a, "name")
	}},
	"listaccounts": {"account", func(s *Sim, _ args) []entity {
		return []entity{{"id": newID(), "name": Account, "domain": "ROOT", "domainid": s.domainID, "accounttype": 0, "rolename": "User", "state": "enabled",
			"vmlimit": "20", "vmtotal": len(s.machines), "volumelimit": "40", "volumetotal": len(s.volumes), "templatelimit": "20", "templatetotal": len(s.templates),
			"cpulimit": "40", "cputotal": 2 * len(s.machines), "memorylimit": "65536", "memorytotal": 2048 * len(s.machines),
			"primarystoragelimit": "Unlimited", "primarystoragetotal": 0, "secondarystoragelimit": "400", "secondarystoragetotal": 0.0}}
	}},
	"listzones": {"zone", func(s *Sim, a args) []entity {
		return matching([]entity{{"id": s.zoneID, "name": Zone, "networktype": "Advanced", "securitygroupsenabled": true, "allocationstate": "Enabled"}}, a, "id", "name")
	}},
	"listclusters": {"cluster", func(s *Sim, _ args) []entity {
		return []entity{{"id": s.clusterID, "name": "cluster1", "hypervisortype": s.o.Hypervisor, "zoneid": s.zoneID}}
	}},
	"listhypervisors": {"hypervisor", func(s *Sim, _ args) []entity { return []entity{{"name": s.o.Hypervisor}} }},
	"listhosts": {"host", func(s *Sim, _ args) []entity {
		return []entity{{"id": newID(), "name": "kvm1", "type": "Routing", "state": "Up", "hypervisor": s.o.Hypervisor, "clusterid": s.clusterID, "ueficapability": true}}
	}},
	"liststoragepools": {"storagepool", func(s *Sim, a args) []entity {
		scope := map[bool]string{true: "ZONE", false: "CLUSTER"}[s.o.ZoneWide]
		return matching([]entity{{"id": s.poolID, "name": Pool, "scope": scope, "type": "NetworkFilesystem", "state": "Up", "zoneid": s.zoneID, "clusterid": s.clusterID,
			"disksizetotal": int64(1) << 42, "disksizeused": int64(1) << 40}}, a, "id", "name", "scope")
	}},
	"listserviceofferings": {"serviceoffering", func(s *Sim, a args) []entity { return matching(s.offerings, a, "id", "name") }},
	"listdiskofferings":    {"diskoffering", func(s *Sim, a args) []entity { return matching(s.diskOfferings, a, "id", "name") }},
	"listnetworks":         {"network", func(s *Sim, a args) []entity { return matching(s.networks, a, "id") }},
	"listostypes":          {"ostype", func(s *Sim, a args) []entity { return matching(s.osTypes, a, "id", "description") }},
	"listdomains": {"domain", func(s *Sim, a args) []entity {
		return matching([]entity{{"id": s.domainID, "name": "ROOT", "path": "ROOT"}}, a, "id", "name")
	}},
	"listprojects": {"project", func(s *Sim, a args) []entity {
		return matching([]entity{{"id": s.projectID, "name": Project, "displaytext": Project, "state": "Active"}}, a, "id", "name")
	}},
	"listconfigurations": {"configuration", func(s *Sim, a args) []entity {
		return matching([]entity{{"name": "upload.operation.timeout", "value": fmt.Sprint(int(s.o.UploadTimeout / time.Minute))}}, a, "name")
	}},
	"listsshkeypairs": {"sshkeypair", func(_ *Sim, a args) []entity { return matching([]entity{{"name": KeyPair}}, a, "name") }},
	"listaffinitygroups": {"affinitygroup", func(_ *Sim, a args) []entity {
		return matching([]entity{{"id": "bbbbbbbb-0000-4000-8000-000000000001", "name": Affinity, "type": "host anti-affinity"}}, a, "name")
	}},
	"listsecuritygroups": {"securitygroup", func(*Sim, args) []entity {
		return []entity{{"id": "bbbbbbbb-0000-4000-8000-000000000002", "name": SecurityGroup}}
	}},
	"listvolumes": {"volume", func(s *Sim, a args) []entity {
		var out []entity
		for _, v := range s.volumes {
			out = append(out, s.volumeJSON(v))
		}
		return matching(out, a, "id", "name", "virtualmachineid", "type", "state")
	}},
	"listtemplates": {"template", func(s *Sim, a args) []entity {
		var out []entity
		for _, t := range s.templates {
			out = append(out, s.templateJSON(t))
		}
		return matching(out, a, "id", "name")
	}},
	// "name" is a part of the display name, in a LIKE that takes a backslash for an
	// escape.
	"listvirtualmachines": {"virtualmachine", func(s *Sim, a args) []entity {
		var out []entity
		for _, m := range s.machines {
			if n := strings.ToLower(strings.ReplaceAll(a["name"], `\`, "")); n == "" || strings.Contains(strings.ToLower(m.display), n) {
				out = append(out, s.machineJSON(m))
			}
		}
		return matching(out, a, "id", "state")
	}},
}

var actions = map[string]func(s *Sim, a args) (any, *failure){
	"listcapabilities": func(s *Sim, _ args) (any, *failure) {
		return entity{"capability": entity{"cloudstackversion": s.o.Version, "securitygroupsenabled": true, "customdiskofferingmaxsize": 1024}}, nil
	},
	"queryasyncjobresult":        (*Sim).queryJob,
	"getuploadparamsforvolume":   (*Sim).uploadVolume,
	"getuploadparamsfortemplate": (*Sim).uploadTemplate,
	"deletevolume":               (*Sim).deleteVolume,
	"deletetemplate":             (*Sim).deleteTemplate,
	"createvolume":               (*Sim).createVolume,
	"createtemplate":             (*Sim).createTemplate,
	"addnictovirtualmachine":     (*Sim).addNIC,
	"attachvolume":               (*Sim).attachVolume,
	"detachvolume":               (*Sim).detachVolume,
	"deployvirtualmachine":       (*Sim).deploy,
	"startvirtualmachine":        (*Sim).start,
	"stopvirtualmachine":         (*Sim).stop,
	"destroyvirtualmachine":      (*Sim).destroy,
	"createtags":                 (*Sim).tag,
	"importvm":                   (*Sim).importVM,
	"importvolume":               (*Sim).importVolume,
}

// queryJob answers "pending" once before it tells the result.
func (s *Sim) queryJob(a args) (any, *failure) {
	j := s.jobs[a["jobid"]]
	if j == nil {
		return nil, invalid("Unable to find job %s", a["jobid"])
	}
	out := entity{"jobid": a["jobid"], "jobstatus": 0, "jobprocstatus": 0, "jobresultcode": 0, "created": time.Now().Format(time.RFC3339)}
	if j.polls++; j.polls < 2 {
		return out, nil
	}
	out["jobresulttype"], out["jobstatus"], out["jobresult"] = "object", 1, j.result
	if j.fail != nil {
		out["jobstatus"], out["jobresultcode"], out["jobresult"] = 2, j.fail.code, entity{"errorcode": j.fail.code, "errortext": j.fail.text}
	}
	return out, nil
}

func (s *Sim) customOffering(a args) (string, *failure) {
	id := a["diskofferingid"]
	if id == "" {
		return s.diskOfferings[0].id(), nil
	}
	if find(s.diskOfferings, id)["iscustomized"] != true {
		return "", invalid("Please specify a custom sized disk offering.")
	}
	return id, nil
}

func (s *Sim) formatOf(a args) *failure {
	want := map[string]string{"KVM": "QCOW2", "VMware": "OVA", "XenServer": "VHD", "Hyperv": "VHD"}[s.o.Hypervisor]
	if !strings.EqualFold(a["format"], want) {
		return invalid("The %s format is not supported for %s", a["format"], s.o.Hypervisor)
	}
	return nil
}

func (s *Sim) uploadVolume(a args) (any, *failure) {
	if fail := s.formatOf(a); fail != nil {
		return nil, fail
	}
	offering, fail := s.customOffering(a)
	if fail != nil {
		return nil, fail
	}
	v := &volume{id: newID(), name: a["name"], state: "NotUploaded", kind: "DATADISK", offering: offering, created: time.Now()}
	if s.o.RootVolumes {
		v.template = newID()
	}
	s.volumes = append(s.volumes, v)
	return entity{"getuploadparams": s.permit(v.id, v, nil)}, nil
}

func (s *Sim) uploadTemplate(a args) (any, *failure) {
	if fail := s.formatOf(a); fail != nil {
		return nil, fail
	}
	t := &template{id: newID(), name: a["name"], status: "NotUploaded", osType: a["ostypeid"], details: a.merged("details"), created: time.Now()}
	s.templates = append(s.templates, t)
	return entity{"getuploadparams": s.permit(t.id, nil, t)}, nil
}

const beingUploaded = "The volume is either getting uploaded or it may be initiated shortly, please wait for it to be completed"

func (s *Sim) deleteVolume(a args) (any, *failure) {
	v := s.volume(a["id"])
	switch {
	case v.machine != "":
		return nil, invalid("Please specify a volume that is not attached to any VM.")
	case v.state == "NotUploaded" || v.state == "UploadInProgress":
		return nil, invalid(beingUploaded)
	}
	s.drop(v)
	return entity{"success": true}, nil
}

func (s *Sim) drop(v *volume) {
	s.volumes = slices.DeleteFunc(s.volumes, func(x *volume) bool { return x == v })
	s.removePlace(v)
}

func (s *Sim) deleteTemplate(a args) (any, *failure) {
	t := s.template(a["id"])
	if t.status == "NotUploaded" || t.status == "0% Downloaded" {
		return nil, invalid("The template is either getting uploaded or it may be initiated shortly, please wait for it to be completed")
	}
	for _, m := range s.machines {
		if m.template == t.id && a["forced"] != "true" {
			return nil, invalid("Unable to delete template with id: %s because VM instances: [%s] are using it.", t.id, m.id)
		}
	}
	s.templates = slices.DeleteFunc(s.templates, func(x *template) bool { return x == t })
	return entity{"success": true}, nil
}

func (s *Sim) createVolume(a args) (any, *failure) {
	o := find(s.diskOfferings, a["diskofferingid"])
	if o == nil {
		return nil, invalid("At least one of disk Offering ID or snapshot ID must be passed whilst creating volume")
	}
	size := a.number("size")
	if custom := o["iscustomized"] == true; custom != (size > 0) {
		return nil, invalid("This disk offering requires or does not allow custom size")
	}
	if size == 0 {
		size = int64(o["disksize"].(int))
	}
	v := &volume{id: newID(), name: a["name"], state: "Allocated", kind: "DATADISK", offering: o.id(), size: size * s.o.Unit, format: "raw", created: time.Now()}
	s.volumes = append(s.volumes, v)
	return entity{"volume": s.volumeJSON(v)}, nil
}

func (s *Sim) createTemplate(a args) (any, *failure) {
	v := s.volume(a["volumeid"])
	if v == nil || v.state != "Ready" || v.machine != "" {
		return nil, invalid("The volume is not ready or is attached to a running VM")
	}
	t := &template{id: newID(), name: a["name"], status: "Download Complete", ready: true, osType: a["ostypeid"], details: a.merged("details"), size: v.size,
		file: slices.Clone(s.bytes(v)), format: v.format, created: time.Now()}
	s.templates = append(s.templates, t)
	return entity{"template": s.templateJSON(t)}, nil
}

func (s *Sim) attachVolume(a args) (any, *failure) {
	v, m := s.volume(a["id"]), s.machine(a["virtualmachineid"])
	switch {
	case v.machine != "":
		return nil, invalid("Please specify a volume that is not attached to any VM.")
	case !slices.Contains([]string{"Allocated", "Ready", "Uploaded"}, v.state):
		return nil, invalid("Volume state must be in Allocated, Ready or in Uploaded state")
	case m == nil: // the worker
		if fail := s.plug(v); fail != nil {
			return nil, fail
		}
		v.machine, v.state, v.primary = WorkerID, "Ready", true
		return entity{"volume": s.volumeJSON(v)}, nil
	case m.state != "Running" && m.state != "Stopped":
		return nil, invalid("Please specify a VM that is either running or stopped.")
	}
	v.device = s.freeDevice(m.id)
	v.machine, v.state, v.primary = m.id, "Ready", true
	return entity{"volume": s.volumeJSON(v)}, nil
}

// freeDevice is the first number that no disk has; 3 is the CD-ROM's.
func (s *Sim) freeDevice(id string) int {
	used := map[int]bool{0: true, 3: true}
	for _, d := range s.disksOf(id) {
		used[d.device] = true
	}
	n := 1
	for used[n] {
		n++
	}
	return n
}

func (s *Sim) detachVolume(a args) (any, *failure) {
	v := s.volume(a["id"])
	switch {
	case v == nil:
		return nil, invalid("please provide the id of the volume")
	case v.machine == "":
		return nil, invalid("The specified volume is not attached to a VM.")
	case v.machine == WorkerID:
		s.unplug(v)
	case v.kind == "ROOT" && s.machine(v.machine).state != "Stopped":
		return nil, invalid("Please specify a VM that is in the stopped state when detaching ROOT volume")
	}
	v.machine, v.device = "", 0
	return entity{"volume": s.volumeJSON(v)}, nil
}

var reHost = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func (s *Sim) nameFree(name string) *failure {
	if !reHost.MatchString(name) {
		return invalid("Invalid name. Vm name can contain ASCII letters 'a' through 'z', the digits '0' through '9', and the hyphen ('-'), must be between 1 and 63 characters long, and can't start or end with \"-\" and can't start with digit")
	}
	for _, m := range s.machines {
		if strings.EqualFold(m.name, name) {
			return invalid("The vm with hostName %s already exists in the network domain: cs1cloud.internal; network=%s", name, Network)
		}
	}
	return nil
}

// hardware fills in what the offering and the details say.
func (s *Sim) hardware(m *machine, a args) *failure {
	o := find(s.offerings, a["serviceofferingid"])
	m.offering, m.details = o.id(), a.merged("details")
	custom := args(m.details)
	if o["iscustomized"] == true {
		m.cpus, m.memory = custom.number("cpuNumber"), custom.number("memory")
		if m.cpus <= 0 || m.memory < 32 || custom.number("cpuSpeed") <= 0 {
			return invalid("Need to specify custom parameter values cpuNumber, cpuSpeed and memory when using custom offering")
		}
	} else {
		if m.details["cpuNumber"] != "" || m.details["memory"] != "" {
			return invalid("The service offering isn't dynamic, cpuNumber and memory cannot be given")
		}
		m.cpus, m.memory = int64(o["cpunumber"].(int)), int64(o["memory"].(int))
	}
	for key, allowed := range map[string][]string{
		"rootDiskController": {"ide", "scsi", "virtio", "sata", "osdefault", "virtio-blk"}, "dataDiskController": {"ide", "scsi", "virtio", "sata", "osdefault", "virtio-blk"},
		"nicAdapter": {"virtio", "e1000", "rtl8139", "pcnet"},
	} {
		if v := m.details[key]; v != "" && !slices.Contains(allowed, v) {
			return invalid("detail %s=%s is not known to %s", key, v, s.o.Hypervisor)
		}
	}
	m.boottype, m.bootmode = strings.ToUpper(a["boottype"]), strings.ToUpper(a["bootmode"])
	switch {
	case !slices.Contains([]string{"", "BIOS", "UEFI"}, m.boottype) || !slices.Contains([]string{"", "LEGACY", "SECURE"}, m.bootmode):
		return invalid("Invalid bootType or bootMode")
	case m.boottype == "UEFI" && m.bootmode == "":
		return invalid("bootmode must be specified for the selected boot type. Valid values are: LEGACY, SECURE")
	case m.boottype != "UEFI" && m.bootmode == "SECURE":
		return invalid("secure boot needs UEFI")
	}
	return nil
}

func (s *Sim) adapters(m *machine, a args) *failure {
	add := func(id, ip, mac string) *failure {
		n := find(s.networks, id)
		if n == nil {
			return invalid("Unable to find network by id %s", id)
		}
		if mac == "" {
			mac = fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", len(s.machines), len(m.nics), len(s.volumes), len(s.jobs))
		}
		if ip == "" {
			ip = fmt.Sprintf("10.1.1.%d", 10+len(s.jobs)%200)
		}
		m.nics = append(m.nics, map[string]string{"id": newID(), "networkid": id, "networkname": n["name"].(string), "macaddress": mac, "ipaddress": ip})
		return nil
	}
	maps, ids := a.maps("iptonetworklist"), a.list("networkids")
	switch {
	case len(maps) > 0 && len(ids) > 0:
		return invalid("NetworkIds and ipToNetworkMap can't be specified along with each other")
	case len(maps)+len(ids) == 0:
		ids = []string{s.networks[0].id()}
	}
	for _, x := range maps {
		for k := range x {
			if !slices.Contains([]string{"networkid", "ip", "ipv6", "mac"}, k) {
				return invalid("iptonetworklist has no %s", k)
			}
		}
		if fail := add(x["networkid"], x["ip"], x["mac"]); fail != nil {
			return fail
		}
	}
	for _, id := range ids {
		if fail := add(id, "", ""); fail != nil {
			return fail
		}
	}
	return nil
}

func (s *Sim) addNIC(a args) (any, *failure) {
	m := s.machine(a["virtualmachineid"])
	one := args{"iptonetworklist[0].networkid": a["networkid"], "iptonetworklist[0].mac": a["macaddress"], "iptonetworklist[0].ip": a["ipaddress"]}
	if fail := s.adapters(m, one); fail != nil {
		return nil, fail
	}
	return entity{"virtualmachine": s.machineJSON(m)}, nil
}

func (s *Sim) deploy(a args) (any, *failure) {
	m := &machine{id: newID(), name: a["name"], display: a["displayname"], state: "Running", keypairs: a.list("keypairs"), affinity: a.list("affinitygroupids"),
		groups: a.list("securitygroupids"), project: a["projectid"], tags: map[string]string{}}
	if a["keypair"] != "" {
		m.keypairs = append(m.keypairs, a["keypair"])
	}
	if m.name == "" {
		m.name = "VM-" + m.id
	}
	if m.display == "" {
		m.display = m.name
	}
	if a["startvm"] == "false" {
		m.state = "Stopped"
	}
	root := &volume{id: newID(), name: "ROOT-" + m.id[:8], created: time.Now()}
	switch {
	case (a["templateid"] == "") == (a["volumeid"] == ""):
		return nil, invalid("one of templateid and volumeid is to be given")
	case a["templateid"] != "":
		t := s.template(a["templateid"])
		if !t.ready {
			return nil, invalid("Unable to use template %s: it is not ready", t.id)
		}
		m.template, root.file, root.size, root.format = t.id, t.file, t.size, t.format
	default:
		if s.older("4.21") {
			return nil, invalid("Received unknown parameters for command deployVirtualMachine. Unknown parameters: [volumeid]")
		}
		root = s.volume(a["volumeid"])
		switch {
		case s.o.Hypervisor != "KVM":
			return nil, invalid("Deploying a virtual machine with existing volume/snapshot is supported only from KVM hypervisors")
		case !s.o.ZoneWide:
			return nil, invalid("Deployment of virtual machine is supported only for Zone-wide storage pools")
		case root.template == "":
			return nil, invalid("The provided volume/snapshot doesn't have a template to deploy a VM")
		case root.machine != "":
			return nil, invalid("The volume %s is already attached to a VM %s", root.id, root.machine)
		case root.state != "Uploaded" && root.state != "Ready":
			return nil, invalid("The volume %s is in state %s", root.id, root.state)
		}
	}
	for _, k := range m.keypairs {
		if k != KeyPair {
			return nil, invalid("A key pair with name '%s' does not exist", k)
		}
	}
	for _, check := range []func() *failure{
		func() *failure { return s.nameFree(m.name) }, func() *failure { return s.hardware(m, a) }, func() *failure { return s.adapters(m, a) },
	} {
		if fail := check(); fail != nil {
			return nil, fail
		}
	}
	root.state, root.kind, root.machine, root.primary = "Ready", "ROOT", m.id, true
	if s.volume(root.id) == nil {
		s.volumes = append(s.volumes, root)
	}
	s.machines = append(s.machines, m)
	return entity{"virtualmachine": s.machineJSON(m)}, nil
}

func (s *Sim) older(than string) bool {
	var a, b, c, d int
	_, _ = fmt.Sscanf(s.o.Version, "%d.%d", &a, &b)
	_, _ = fmt.Sscanf(than, "%d.%d", &c, &d)
	return a < c || a == c && b < d
}

func (s *Sim) start(a args) (any, *failure) {
	m := s.machine(a["id"])
	if m.state != "Stopped" && m.state != "Running" {
		return nil, invalid("VM with UUID [%s] in state %s cannot be started", m.id, m.state)
	}
	m.state = "Running"
	return entity{"virtualmachine": s.machineJSON(m)}, nil
}

func (s *Sim) stop(a args) (any, *failure) {
	m := s.machine(a["id"])
	m.state = "Stopped"
	return entity{"virtualmachine": s.machineJSON(m)}, nil
}

// destroy removes the root disk with the machine; other disks stay.
func (s *Sim) destroy(a args) (any, *failure) {
	m := s.machine(a["id"])
	m.state = "Destroyed"
	if a["expunge"] != "true" {
		return entity{"virtualmachine": s.machineJSON(m)}, nil
	}
	for _, v := range s.disksOf(m.id) {
		if v.kind == "ROOT" {
			s.drop(v)
			continue
		}
		v.machine, v.device = "", 0
	}
	s.machines = slices.DeleteFunc(s.machines, func(x *machine) bool { return x == m })
	return entity{"null": entity{}}, nil
}

func (s *Sim) tag(a args) (any, *failure) {
	var key, value string
	for _, t := range a.maps("tags") {
		key, value = t["key"], t["value"]
	}
	if key == "" || value == "" {
		return nil, invalid("tags[0].key and tags[0].value are to be given")
	}
	for _, id := range a.list("resourceids") {
		var tags *map[string]string
		switch strings.ToLower(a["resourcetype"]) {
		case "uservm":
			if m := s.machine(id); m != nil {
				tags = &m.tags
			}
		case "volume":
			if v := s.volume(id); v != nil {
				tags = &v.tags
			}
		case "template":
			if t := s.template(id); t != nil {
				tags = &t.tags
			}
		}
		switch {
		case tags == nil:
			return nil, invalid("Unable to find %s by id %s", a["resourcetype"], id)
		case *tags == nil:
			*tags = map[string]string{}
		case (*tags)[key] != "":
			return nil, refuse(codeInternal, "tag %s already on %s with id %s", key, a["resourcetype"], id)
		}
		(*tags)[key] = value
	}
	return entity{"success": true}, nil
}
