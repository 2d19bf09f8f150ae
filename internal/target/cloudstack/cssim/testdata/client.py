"""Restores a machine of two disks with the client cs, as a script of a user's would."""
import os
import sys

import requests
from cs import CloudStack, CloudStackApiException

url, key, ca, image = sys.argv[1:]
cs = CloudStack(url, key=key, secret=os.environ["SECRET"], verify=ca, poll_interval=0.01, fetch_result=True)

assert cs.listCapabilities()["capability"]["cloudstackversion"].startswith("4.")
zone = cs.listZones(name="zone1")["zone"][0]["id"]
offering = cs.listServiceOfferings(name="Medium")["serviceoffering"][0]["id"]
network = cs.listNetworks(zoneid=zone, fetch_list=True)[0]["id"]
ostype = cs.listOsTypes(description="Other Linux (64-bit)")["ostype"][0]["id"]


def upload(params):
    k = params["getuploadparams"]
    with open(image, "rb") as f:
        r = requests.post(
            k["postURL"], files={"files[]": ("disk.qcow2", f)}, verify=ca,
            headers={"X-signature": k["signature"], "X-metadata": k["metadata"], "X-expires": k["expires"]})
    assert r.status_code == 200, r.text
    return k["id"]


template = upload(cs.getUploadParamsForTemplate(
    name="root", displaytext="root", format="QCOW2", hypervisor="KVM", zoneid=zone, ostypeid=ostype))
volume = upload(cs.getUploadParamsForVolume(name="data", format="QCOW2", zoneid=zone))
assert cs.listTemplates(templatefilter="self", id=template)["template"][0]["isready"]
assert cs.listVolumes(id=volume)["volume"][0]["state"] == "Uploaded"

vm = cs.deployVirtualMachine(
    zoneid=zone, serviceofferingid=offering, templateid=template, name="buero", displayname="Büro & Co", startvm=False,
    details={"rootDiskController": "virtio"},
    iptonetworklist=[{"networkid": network, "mac": "02:00:00:00:00:07"}])["virtualmachine"]
assert vm["state"] == "Stopped", vm
cs.attachVolume(id=volume, virtualmachineid=vm["id"])
cs.createTags(resourceids=[vm["id"]], resourcetype="UserVm", tags={"key": "team", "value": "blue"})
assert cs.startVirtualMachine(id=vm["id"])["virtualmachine"]["state"] == "Running"

for bad in (lambda: cs.deleteVolume(id=volume), lambda: cs.deleteVolume(), lambda: cs.listVolumes(nonsense=1)):
    try:
        bad()
    except CloudStackApiException as e:
        assert e.error["errorcode"] == 431, e
    else:
        raise AssertionError("was not refused")
