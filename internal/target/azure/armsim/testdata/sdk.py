"""Drives the simulator by Microsoft's own client: azure-mgmt-compute,
azure-mgmt-network and azure-storage-blob. Any answer that they
cannot read, or that is not what the platform documents, ends it with an error."""
import os
import sys
import time

import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.storage.blob import BlobClient

url, sub, tenant, client, secret, group, other = (os.environ[k] for k in (
    "SIM_URL", "SIM_SUBSCRIPTION", "SIM_TENANT", "SIM_CLIENT", "SIM_SECRET", "SIM_GROUP", "SIM_OTHER_GROUP"))
ca = os.environ["REQUESTS_CA_BUNDLE"]


class Credential:
    """Signs in by the client credentials flow; azure-identity of this age asks
    login.microsoftonline.com whether an authority is one."""

    def get_token(self, *scopes, **_):
        res = requests.post("%s/%s/oauth2/v2.0/token" % (url, tenant), verify=ca, timeout=30, data={
            "grant_type": "client_credentials", "client_id": client, "client_secret": secret, "scope": scopes[0]})
        res.raise_for_status()
        return AccessToken(res.json()["access_token"], int(time.time()) + res.json()["expires_in"])


cred = Credential()
args = dict(base_url=url, credential_scopes=[url + "/.default"], polling_interval=0.05, connection_verify=ca)
compute = ComputeManagementClient(cred, sub, **args)
network = NetworkManagementClient(cred, sub, **args)
region = "westeurope"


def refused(status, code, f):
    try:
        f()
    except HttpResponseError as e:
        got = e.error.code if e.error else e.error_code
        assert e.status_code == status and got == code, (e.status_code, got, e.message)
        return
    raise AssertionError("not refused: %s" % code)


def check(what, ok):
    if not ok:
        raise AssertionError(what)
    print("ok", what, flush=True)


size = 20 << 20
body = {"location": region, "tags": {"by": "sdk"}, "sku": {"name": "StandardSSD_LRS"}, "os_type": "Linux", "hyper_v_generation": "V2",
        "creation_data": {"create_option": "Upload", "upload_size_bytes": size + 512}}
disks = []
for n in range(5):
    d = compute.disks.begin_create_or_update(group, "disk%d" % n, body).result()
    check("disk %d" % n, d.provisioning_state == "Succeeded" and d.disk_state == "ReadyToUpload" and d.disk_size_bytes == size
          and d.hyper_v_generation == "V2" and d.creation_data.upload_size_bytes == size + 512 and d.tags == {"by": "sdk"} and d.id.endswith("/disk%d" % n))
    disks.append(d)
again = compute.disks.begin_create_or_update(group, "disk0", body).result()
check("a disk put twice is one", again.unique_id == disks[0].unique_id)
check("lists have pages", sorted(d.name for d in compute.disks.list()) == ["disk%d" % n for n in range(5)])
for bad in (size, 511 + size, 1 << 20, 1 << 50):
    wrong = dict(body, creation_data={"create_option": "Upload", "upload_size_bytes": bad})
    refused(400, "InvalidParameter", lambda: compute.disks.begin_create_or_update(group, "bad", wrong).result())
refused(409, "PropertyChangeNotAllowed", lambda: compute.disks.begin_create_or_update(group, "disk0", dict(body, hyper_v_generation="V1")).result())
refused(404, "ResourceGroupNotFound", lambda: compute.disks.get("atlantis", "disk0"))

sas = compute.disks.begin_grant_access(group, "disk0", {"access": "Write", "duration_in_seconds": 3600}).result().access_sas
check("access", sas.startswith("https://") and compute.disks.get(group, "disk0").disk_state == "ActiveUpload")
refused(409, "OperationNotAllowed", lambda: compute.disks.begin_delete(group, "disk0").result())
blob = BlobClient.from_blob_url(sas, connection_verify=ca)
page = bytes(range(256)) * 2
blob.upload_page(page, offset=512, length=512, validate_content=False)
check("pages", blob.download_blob(offset=512, length=512).readall() == page and blob.get_blob_properties().size == size + 512)
refused(403, "AuthorizationPermissionMismatch", blob.delete_blob)
for off, n in ((size + 512, 512), (0, 8 << 20)):
    try:
        blob.upload_page(b"x" * n, offset=off, length=n)
        raise AssertionError("written: %d at %d" % (n, off))
    except HttpResponseError as e:
        check("a write of %d at %d is refused" % (n, off), e.status_code in (413, 416))
for n in range(5):
    compute.disks.begin_revoke_access(group, "disk%d" % n).result()
try:
    blob.upload_page(page, offset=0, length=512)
    raise AssertionError("written after access was revoked")
except HttpResponseError as e:
    check("revoked", e.status_code == 403)
check("unattached", compute.disks.get(group, "disk0").disk_state == "Unattached")
refused(409, "OperationNotAllowed", lambda: compute.disks.begin_grant_access(group, "disk0", {"access": "Write", "duration_in_seconds": 60}).result())

sn = next(s for v in network.virtual_networks.list_all() for s in v.subnets if s.name == "servers")
ip = network.public_ip_addresses.begin_create_or_update(group, "ip", {"location": region, "sku": {"name": "Standard"}, "public_ip_allocation_method": "Static"}).result()
nic = network.network_interfaces.begin_create_or_update(group, "nic", {"location": region, "ip_configurations": [
    {"name": "a", "subnet": {"id": sn.id}, "public_ip_address": {"id": ip.id}, "private_ip_allocation_method": "Static", "private_ip_address": "10.20.1.9"}]}).result()
check("adapter", nic.provisioning_state == "Succeeded" and nic.ip_configurations[0].private_ip_address == "10.20.1.9")
refused(400, "PublicIPAddressCannotBeDeleted", lambda: network.public_ip_addresses.begin_delete(group, "ip").result())

vm = {"location": region, "hardware_profile": {"vm_size": "Standard_D2s_v5"},
      "storage_profile": {"os_disk": {"os_type": "Linux", "create_option": "Attach", "managed_disk": {"id": disks[0].id}, "delete_option": "Detach"},
                          "data_disks": [{"lun": 3, "create_option": "Attach", "managed_disk": {"id": disks[1].id}}]},
      "network_profile": {"network_interfaces": [{"id": nic.id, "primary": True}]},
      "diagnostics_profile": {"boot_diagnostics": {"enabled": True}}}
refused(400, "InvalidParameter", lambda: compute.virtual_machines.begin_create_or_update(group, "vm", dict(vm, hardware_profile={"vm_size": "Huge"})).result())
made = compute.virtual_machines.begin_create_or_update(group, "vm", vm).result()
check("machine", made.provisioning_state == "Succeeded" and made.storage_profile.data_disks[0].lun == 3 and made.hardware_profile.vm_size == "Standard_D2s_v5")


def power():
    return [s.code for s in compute.virtual_machines.instance_view(group, "vm").statuses if s.code.startswith("PowerState/")]


check("it runs", power() == ["PowerState/running"])
check("attached", compute.disks.get(group, "disk0").managed_by == made.id and compute.disks.get(group, "disk1").disk_state == "Attached")
refused(409, "OperationNotAllowed", lambda: compute.disks.begin_delete(group, "disk1").result())
refused(409, "OperationNotAllowed", lambda: compute.disks.begin_grant_access(group, "disk0", {"access": "Read", "duration_in_seconds": 60}).result())
refused(400, "NicInUse", lambda: network.network_interfaces.begin_delete(group, "nic").result())
compute.virtual_machines.begin_deallocate(group, "vm").result()
check("it is off", power() == ["PowerState/deallocated"] and compute.disks.get(group, "disk0").disk_state == "Reserved")
compute.virtual_machines.begin_start(group, "vm").result()
check("it runs again", power() == ["PowerState/running"])
check("it is listed", [m.name for m in compute.virtual_machines.list_all()] == ["vm"])

skus = {s.name: s for s in compute.resource_skus.list(filter="location eq '%s'" % region)}
caps = {c.name: c.value for c in skus["Standard_D4s_v5"].capabilities}
check("sizes", caps["vCPUs"] == "4" and skus["Standard_D4s_v5"].location_info[0].zones == ["1", "2", "3"])
check("usage", {u.name.value: u.current_value for u in compute.usage.list(region)}["cores"] == 2)

compute.virtual_machines.begin_delete(group, "vm").result()
network.network_interfaces.begin_delete(group, "nic").result()
network.public_ip_addresses.begin_delete(group, "ip").result()
for n in range(5):
    compute.disks.begin_delete(group, "disk%d" % n).result()
try:
    compute.disks.get(group, "disk0")
    raise AssertionError("the disk is still there")
except ResourceNotFoundError:
    check("all is gone", list(compute.disks.list()) == [])
sys.exit(0)
