# Reads ranges of an image's disk with libvhdi, libvmdk or libqcow and prints
# the disk's size and the SHA-256 of the ranges put together.
#
#   read.py vhdi|vmdk|qcow IMAGE OFFSET:LENGTH...
import hashlib
import sys

library, path = sys.argv[1:3]
if library == "vhdi":
    import pyvhdi
    image = pyvhdi.file()
    image.open(path)
elif library == "qcow":
    import pyqcow
    image = pyqcow.file()
    image.open(path)
else:
    import pyvmdk
    image = pyvmdk.handle()
    image.open(path)
    image.open_extent_data_files()

digest = hashlib.sha256()
for r in sys.argv[3:]:
    offset, length = map(int, r.split(":"))
    while length > 0:
        data = image.read_buffer_at_offset(min(length, 1 << 20), offset)
        if not data:
            sys.exit("end of disk at %d" % offset)
        digest.update(data)
        offset += len(data)
        length -= len(data)
print(image.get_media_size(), digest.hexdigest())
