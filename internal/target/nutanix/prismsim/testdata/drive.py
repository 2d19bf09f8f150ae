"""Drives the simulator's Objects Lite by boto3, which signs by itself."""
import base64, hashlib, os, sys
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

user, password = os.environ["PRISM_USER"], os.environ["PRISM_PASSWORD"]
key = base64.b64encode(f"{user}:{password}".encode()).decode()


def client(secret, **more):
    return boto3.client(
        "s3", endpoint_url=os.environ["PRISM_URL"] + "/api/prism/v4.0/objects", verify=os.environ["PRISM_CA"], region_name="us-east-1",
        aws_access_key_id=key, aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **more))


def refused(code, f, **args):
    try:
        f(**args)
    except ClientError as e:
        if e.response["Error"]["Code"] != code:
            sys.exit(f"refused with {e.response['Error']}, not {code}")
        return
    sys.exit(f"{f} {list(args)} is not refused")


quiet = dict(request_checksum_calculation="when_required", response_checksum_validation="when_required")
s3 = client(key, **quiet)
b = "vmm-images"
name = "a disk, ümlaut & more.qcow2"

up = s3.create_multipart_upload(Bucket=b, Key=name)["UploadId"]
blobs = [os.urandom(6 << 20), os.urandom(5 << 20), b"tail"]
tags = [s3.upload_part(Bucket=b, Key=name, UploadId=up, PartNumber=n + 1, Body=p)["ETag"] for n, p in enumerate(blobs)]
assert tags[0] == '"%s"' % hashlib.md5(blobs[0]).hexdigest()
parts = [{"PartNumber": n + 1, "ETag": t} for n, t in enumerate(tags)]
refused("InvalidPartOrder", s3.complete_multipart_upload, Bucket=b, Key=name, UploadId=up, MultipartUpload={"Parts": parts[::-1]})
refused("InvalidPart", s3.complete_multipart_upload, Bucket=b, Key=name, UploadId=up, MultipartUpload={"Parts": parts + [{"PartNumber": 4, "ETag": tags[0]}]})
refused("NotImplemented", s3.list_parts, Bucket=b, Key=name, UploadId=up)
refused("NoSuchUpload", s3.upload_part, Bucket=b, Key=name, UploadId="none", PartNumber=1, Body=b"x")
s3.complete_multipart_upload(Bucket=b, Key=name, UploadId=up, MultipartUpload={"Parts": parts})
assert s3.head_object(Bucket=b, Key=name)["ContentLength"] == sum(map(len, blobs))

up = s3.create_multipart_upload(Bucket=b, Key="small")["UploadId"]
tags = [s3.upload_part(Bucket=b, Key="small", UploadId=up, PartNumber=n, Body=b"x")["ETag"] for n in (1, 2)]
refused("EntityTooSmall", s3.complete_multipart_upload, Bucket=b, Key="small", UploadId=up,
        MultipartUpload={"Parts": [{"PartNumber": n + 1, "ETag": t} for n, t in enumerate(tags)]})
s3.abort_multipart_upload(Bucket=b, Key="small", UploadId=up)

s3.put_object(Bucket=b, Key="one", Body=b"whole")
refused("NoSuchBucket", s3.put_object, Bucket="other", Key="one", Body=b"whole")
refused("NotImplemented", s3.list_objects_v2, Bucket=b)
refused("SignatureDoesNotMatch", client("wrong", **quiet).put_object, Bucket=b, Key="one", Body=b"whole")
# What today's SDKs do unless told otherwise: checksums in trailers.
refused("NotImplemented", client(key).put_object, Bucket=b, Key="one", Body=b"whole", ChecksumAlgorithm="CRC32")
for k in (name, "one"):
    s3.delete_object(Bucket=b, Key=k)
refused("404", s3.head_object, Bucket=b, Key="one")
