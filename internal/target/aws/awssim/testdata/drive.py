"""Drives a simulated account by boto3 and asserts on what it answers."""
import base64, hashlib, os, time
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

once = Config(retries={"total_max_attempts": 1})
ec2, ebs, sts = (boto3.client(n, config=once) for n in ("ec2", "ebs", "sts"))


def refused(code, f, **kw):
    try:
        f(**kw)
    except ClientError as e:
        assert e.response["Error"]["Code"] == code, e
        return
    raise AssertionError("not refused: " + code)


def put(snap, i, data, sum=None):
    sum = sum or base64.b64encode(hashlib.sha256(data).digest()).decode()
    return ebs.put_snapshot_block(SnapshotId=snap, BlockIndex=i, BlockData=data, DataLength=len(data), Checksum=sum, ChecksumAlgorithm="SHA256")


def until(f):
    for _ in range(20):
        if f():
            return
        time.sleep(0.01)
    raise AssertionError("never")


assert sts.get_caller_identity()["Account"] == "111122223333"
role = sts.assume_role(RoleArn="arn:aws:iam::111122223333:role/r", RoleSessionName="session")["Credentials"]
tmp = boto3.client("sts", aws_access_key_id=role["AccessKeyId"], aws_secret_access_key=role["SecretAccessKey"], aws_session_token=role["SessionToken"])
assert tmp.get_caller_identity()["Account"] == "111122223333"

block = os.urandom(512 << 10)
s = ebs.start_snapshot(VolumeSize=1, ClientToken="a", Tags=[{"Key": "k", "Value": "v"}])
snap = s["SnapshotId"]
assert s["BlockSize"] == 524288 and s["Status"] == "pending"
assert ebs.start_snapshot(VolumeSize=1, ClientToken="a", Tags=[{"Key": "k", "Value": "v"}])["SnapshotId"] == snap
refused("ConflictException", ebs.start_snapshot, VolumeSize=2, ClientToken="a")
put(snap, 7, block)
put(snap, 2047, block)
refused("ValidationException", lambda: put(snap, 2048, block))
refused("ValidationException", lambda: put(snap, 1, block, base64.b64encode(b"0" * 32).decode()))
refused("ValidationException", ebs.complete_snapshot, SnapshotId=snap, ChangedBlocksCount=1)
digest = hashlib.sha256(block).digest()
good = base64.b64encode(hashlib.sha256(digest + digest).digest()).decode()
linear = dict(SnapshotId=snap, ChangedBlocksCount=2, ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR")
refused("ValidationException", ebs.complete_snapshot, Checksum=base64.b64encode(digest).decode(), **linear)
ebs.complete_snapshot(Checksum=good, **linear)
refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=snap)
until(lambda: ec2.describe_snapshots(SnapshotIds=[snap])["Snapshots"][0]["State"] == "completed")
l = ebs.list_snapshot_blocks(SnapshotId=snap)
assert [b["BlockIndex"] for b in l["Blocks"]] == [7, 2047] and l["VolumeSize"] == 1
got = ebs.get_snapshot_block(SnapshotId=snap, BlockIndex=7, BlockToken=l["Blocks"][0]["BlockToken"])
assert got["BlockData"].read() == block and got["DataLength"] == len(block)

empty = ebs.start_snapshot(VolumeSize=1, ClientToken="b")["SnapshotId"]
ebs.complete_snapshot(SnapshotId=empty, ChangedBlocksCount=0)
until(lambda: ec2.describe_snapshots(SnapshotIds=[empty])["Snapshots"][0]["State"] == "completed")
refused("ValidationException", ebs.list_changed_blocks, FirstSnapshotId=empty, SecondSnapshotId=snap)
refused("ValidationException", ebs.start_snapshot, VolumeSize=1, ClientToken="d", ParentSnapshotId=snap, Encrypted=True)
child = ebs.start_snapshot(VolumeSize=1, ClientToken="d", ParentSnapshotId=snap)["SnapshotId"]
put(child, 7, bytes(512 << 10))
put(child, 9, block)
refused("ValidationException", ebs.complete_snapshot, SnapshotId=child, ChangedBlocksCount=3)
ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=2)
until(lambda: ec2.describe_snapshots(SnapshotIds=[child])["Snapshots"][0]["State"] == "completed")
c = ebs.list_changed_blocks(FirstSnapshotId=snap, SecondSnapshotId=child)["ChangedBlocks"]
assert [b["BlockIndex"] for b in c] == [7, 9] and "FirstBlockToken" in c[0] and "FirstBlockToken" not in c[1], c
assert [b["BlockIndex"] for b in ebs.list_snapshot_blocks(SnapshotId=child)["Blocks"]] == [7, 9, 2047]
ec2.delete_snapshot(SnapshotId=child)

dev = [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snap, "VolumeType": "gp3"}}]
plain = ec2.register_image(Name="plain", RootDeviceName="/dev/sda1", BlockDeviceMappings=dev)["ImageId"]
im = ec2.describe_images(ImageIds=[plain])["Images"][0]
assert im["Architecture"] == "i386" and im["VirtualizationType"] == "paravirtual", im
refused("InvalidAMIName.Duplicate", ec2.register_image, Name="plain", RootDeviceName="/dev/sda1", BlockDeviceMappings=dev)
refused("InvalidParameterCombination", ec2.register_image, Name="tpm", RootDeviceName="/dev/sda1", BlockDeviceMappings=dev, VirtualizationType="hvm", TpmSupport="v2.0")
refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=snap)
refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId="snap-0")
refused("InvalidParameterValue", ec2.describe_images, Filters=[{"Name": "nonsense", "Values": ["x"]}])
ec2.deregister_image(ImageId=plain)
ami = ec2.register_image(Name="good", RootDeviceName="/dev/sda1", BlockDeviceMappings=dev, Architecture="x86_64", VirtualizationType="hvm", EnaSupport=True, BootMode="uefi")["ImageId"]
until(lambda: ec2.describe_images(ImageIds=[ami])["Images"][0]["State"] == "available")
run = dict(ImageId=ami, MinCount=1, MaxCount=1, SubnetId=os.environ["SUBNET"], SecurityGroupIds=[os.environ["GROUP"]], ClientToken="c")
refused("InvalidParameterValue", ec2.run_instances, InstanceType="m6g.large", **run)
refused("DryRunOperation", ec2.run_instances, InstanceType="m5.large", DryRun=True, **run)
inst = ec2.run_instances(InstanceType="m5.large", **run)["Instances"][0]["InstanceId"]
assert ec2.run_instances(InstanceType="m5.large", **run)["Instances"][0]["InstanceId"] == inst
until(lambda: ec2.describe_instances(InstanceIds=[inst])["Reservations"][0]["Instances"][0]["State"]["Name"] == "running")
until(lambda: ec2.describe_instance_status(InstanceIds=[inst])["InstanceStatuses"][0]["InstanceStatus"]["Status"] == "ok")
assert "login" in ec2.get_console_output(InstanceId=inst)["Output"]
v = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [inst]}])["Volumes"][0]
assert v["SnapshotId"] == snap and v["Attachments"][0]["Device"] == "/dev/sda1"
refused("VolumeInUse", ec2.delete_volume, VolumeId=v["VolumeId"])
for f in (ec2.describe_subnets, ec2.describe_security_groups, ec2.describe_key_pairs, ec2.describe_availability_zones):
    assert len(f()) > 1
assert len(ec2.describe_instance_types()["InstanceTypes"]) > 3
taken = ec2.create_snapshots(InstanceSpecification={"InstanceId": inst}, TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": "by", "Value": "boto"}]}])["Snapshots"]
assert [t["VolumeId"] for t in taken] == [v["VolumeId"]]
until(lambda: ec2.describe_snapshots(SnapshotIds=[taken[0]["SnapshotId"]])["Snapshots"][0]["State"] == "completed")
d = ec2.describe_snapshots(SnapshotIds=[taken[0]["SnapshotId"]])["Snapshots"][0]
assert d["VolumeId"] == v["VolumeId"] and d["Tags"] == [{"Key": "by", "Value": "boto"}], d
assert ebs.list_changed_blocks(FirstSnapshotId=snap, SecondSnapshotId=taken[0]["SnapshotId"])["ChangedBlocks"] == []
ec2.create_tags(Resources=[taken[0]["SnapshotId"]], Tags=[{"Key": "by", "Value": "again"}])
assert ec2.describe_snapshots(Filters=[{"Name": "tag:by", "Values": ["again"]}])["Snapshots"][0]["SnapshotId"] == taken[0]["SnapshotId"]

disks = [{"SnapshotId": taken[0]["SnapshotId"]}]
refused("InvalidParameter", ec2.import_image, DiskContainers=disks, Platform="Windows", RoleName="nobody")
refused("InvalidParameter", ec2.import_image, DiskContainers=disks, Architecture="arm64", Platform="Linux")
refused("InvalidParameter", ec2.import_image, DiskContainers=disks, BootMode="uefi")
task = ec2.import_image(DiskContainers=disks, Platform="Windows", ClientToken="i")["ImportTaskId"]
assert ec2.import_image(DiskContainers=disks, Platform="Windows", ClientToken="i")["ImportTaskId"] == task
describe = lambda: ec2.describe_import_image_tasks(ImportTaskIds=[task])["ImportImageTasks"][0]
until(lambda: describe()["Status"] == "completed")
done = describe()
win = ec2.describe_images(ImageIds=[done["ImageId"]])["Images"][0]
assert win["Platform"] == "Windows" and win["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == done["SnapshotDetails"][0]["SnapshotId"], win
refused("IncorrectState", ec2.cancel_import_task, ImportTaskId=task)
ec2.deregister_image(ImageId=done["ImageId"])
for s in (done["SnapshotDetails"][0]["SnapshotId"], taken[0]["SnapshotId"]):
    ec2.delete_snapshot(SnapshotId=s)

# S3's multipart uploads, and disks imported of them.
try:
    plain = Config(retries={"total_max_attempts": 1}, request_checksum_calculation="when_required", response_checksum_validation="when_required")
except TypeError:  # an older boto3 adds no checksums
    plain = once
s3, bucket = boto3.client("s3", config=plain), os.environ["BUCKET"]
s3.head_bucket(Bucket=bucket)
refused("404", s3.head_bucket, Bucket="nobodys")
key = "a b/ü+disk.raw"
up = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
raw = os.urandom(512) + bytes((5 << 20) - 512)
of = dict(Bucket=bucket, Key=key, UploadId=up)
tags = [s3.upload_part(Body=raw if n < 6 else b"end".ljust(512), PartNumber=n, **of)["ETag"] for n in range(1, 7)]
got = [p for page in s3.get_paginator("list_parts").paginate(**of) for p in page["Parts"]]
assert [(p["PartNumber"], p["ETag"]) for p in got] == list(enumerate(tags, 1)) and got[0]["Size"] == len(raw), got
assert s3.list_multipart_uploads(Bucket=bucket, Prefix=key)["Uploads"][0]["UploadId"] == up
parts = [{"PartNumber": n, "ETag": t} for n, t in enumerate(tags, 1)]
refused("InvalidPartOrder", s3.complete_multipart_upload, MultipartUpload={"Parts": parts[::-1]}, **of)
refused("InvalidPart", s3.complete_multipart_upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": '"0"'}]}, **of)
refused("EntityTooSmall", s3.complete_multipart_upload, MultipartUpload={"Parts": [parts[5], {"PartNumber": 7, "ETag": s3.upload_part(Body=b"x", PartNumber=7, **of)["ETag"]}]}, **of)
s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **of)
refused("NoSuchUpload", s3.complete_multipart_upload, MultipartUpload={"Parts": parts}, **of)
whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
assert whole == raw * 5 + b"end".ljust(512) and s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(whole)
disk = {"Format": "RAW", "UserBucket": {"S3Bucket": bucket, "S3Key": key}}
refused("InvalidParameter", ec2.import_snapshot, DiskContainer=dict(disk, Format="VHDX"))
refused("InvalidParameter", ec2.import_snapshot, DiskContainer=disk, RoleName="nobody")
task = ec2.import_snapshot(DiskContainer=disk, ClientToken="s")["ImportTaskId"]
assert ec2.import_snapshot(DiskContainer=disk, ClientToken="s")["ImportTaskId"] == task
describe = lambda: ec2.describe_import_snapshot_tasks(ImportTaskIds=[task])["ImportSnapshotTasks"][0]["SnapshotTaskDetail"]
until(lambda: describe()["Status"] == "completed")
made = describe()["SnapshotId"]
l = ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"]
assert [b["BlockIndex"] for b in l] == [0, 10, 20, 30, 40, 50], l
s3.delete_object(Bucket=bucket, Key=key)
refused("404", s3.head_object, Bucket=bucket, Key=key)
up = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=up)
assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
ec2.delete_snapshot(SnapshotId=made)

quotas = boto3.client("service-quotas", config=once)
assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]["Value"] == 64
refused("NoSuchResourceException", quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0")
ec2.terminate_instances(InstanceIds=[inst])
ec2.deregister_image(ImageId=ami)
ec2.delete_snapshot(SnapshotId=snap)
ec2.delete_snapshot(SnapshotId=empty)
