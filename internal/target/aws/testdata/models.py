"""Checks exchanges (JSON lines on stdin) against botocore's service models: every
request parameter and every element of an answer must be one of the model's, of its
type, and what the model requires must be there. Prints a line for each fault."""
import base64, datetime, json, re, sys, urllib.parse
import xml.etree.ElementTree as ET
import botocore.session

session = botocore.session.get_session()
models = {"ec2": "ec2", "sts": "sts", "ebs": "ebs", "servicequotas": "service-quotas"}
models = {k: session.get_service_model(v) for k, v in models.items()}
faults, seen = set(), {}


def scalar(where, shape, text):
    t = shape.type_name
    try:
        if t in ("integer", "long"):
            int(text)
        elif t in ("float", "double"):
            float(text)
        elif t == "boolean":
            assert text in ("true", "false")
        elif t == "blob":
            base64.b64decode(text, validate=True)
        elif t == "timestamp":
            datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except Exception:
        faults.add(f"{where}: {text[:80]!r} is no {t}")
        return
    bounds(where, shape, text)


def bounds(where, shape, text):
    if shape.type_name == "string":
        if shape.enum and text not in shape.enum:
            faults.add(f"{where}: {text!r} is none of the model's values")
        m = shape.metadata
        if not m.get("min", 0) <= len(text) <= m.get("max", 1 << 30):
            faults.add(f"{where}: {len(text)} characters")
    elif shape.type_name in ("integer", "long"):
        m = shape.metadata
        if not m.get("min", -(1 << 62)) <= int(text) <= m.get("max", 1 << 62):
            faults.add(f"{where}: {text} is out of bounds")


def required(where, shape, have):
    for name in getattr(shape, "required_members", []):
        if name not in have:
            faults.add(f"{where}: lacks {name}")


# --- the query protocols' requests

def query_name(member, shape, ec2):
    s = shape.serialization
    if ec2:
        if "queryName" in s:
            return s["queryName"]
        n = s.get("name", member)
        return n[0].upper() + n[1:]
    return s.get("name", member)


def take(where, shape, prefix, params, ec2):
    """Takes a shape's parameters out of params; tells whether there were any."""
    if shape.type_name == "structure":
        have = set()
        for member, sub in shape.members.items():
            if take(f"{where}.{member}", sub, (prefix + "." if prefix else "") + query_name(member, sub, ec2), params, ec2):
                have.add(member)
        if have or not prefix:
            required(where, shape, have)
        return bool(have)
    if shape.type_name == "list":
        pre, n = prefix, 0
        if not ec2 and not shape.serialization.get("flattened"):
            pre += ".member"
        while take(where, shape.member, f"{pre}.{n + 1}", params, ec2):
            n += 1
        return n > 0
    if prefix in params:
        scalar(where, shape, params.pop(prefix))
        return True
    return False


def query_request(x, model, op):
    params = dict(urllib.parse.parse_qsl(x["Body"], keep_blank_values=True))
    params.pop("Action")
    if params.pop("Version") != model.api_version:
        faults.add(f"{op.name}: another version")
    if op.input_shape:
        take(op.name, op.input_shape, "", params, x["Service"] == "ec2")
    for k in params:
        faults.add(f"{op.name}: the model has no parameter {k}")


# --- XML answers

def xml(where, shape, node):
    if shape.type_name == "structure":
        by, have = {s.serialization.get("name", m): (m, s) for m, s in shape.members.items()}, set()
        for kid in node:
            tag = kid.tag.split("}")[-1]
            if tag not in by:
                faults.add(f"{where}: the model has no element {tag}")
                continue
            have.add(by[tag][0])
            xml(f"{where}.{by[tag][0]}", by[tag][1], kid)
        required(where, shape, have)
    elif shape.type_name == "list":
        name = shape.member.serialization.get("name", "member")
        for kid in node:
            if kid.tag.split("}")[-1] != name:
                faults.add(f"{where}: a list of {kid.tag}, not of {name}")
            xml(where, shape.member, kid)
    else:
        scalar(where, shape, node.text or "")


def query_answer(x, op):
    root = ET.fromstring(x["Answer"])
    if x["Status"] != 200:
        if root.find(".//Code") is None or root.find(".//Message") is None:
            faults.add(f"{op.name}: an error without code or message")
        return
    if root.tag.split("}")[-1] != op.name + "Response":
        faults.add(f"{op.name}: the answer is a {root.tag}")
    if x["Service"] == "sts":
        root = root.find(op.output_shape.serialization["resultWrapper"])
    else:
        for kid in [k for k in root if k.tag in ("requestId",)]:
            root.remove(kid)
        if op.output_shape is None and [k.tag for k in root] == ["return"]:
            return
    if op.output_shape is not None:
        xml(op.name, op.output_shape, root)


# --- JSON

def js(where, shape, v):
    t = shape.type_name
    if t == "structure":
        for k, sub in v.items():
            if k not in shape.members:
                faults.add(f"{where}: the model has no member {k}")
            elif sub is not None:
                js(f"{where}.{k}", shape.members[k], sub)
        required(where, shape, [k for k in v if v[k] is not None] + [m for m, s in shape.members.items() if "location" in s.serialization])
    elif t == "list":
        for sub in v:
            js(where, shape.member, sub)
    else:
        kind = {"integer": int, "long": int, "boolean": bool, "string": str, "timestamp": (int, float), "double": (int, float), "float": (int, float)}[t]
        if not isinstance(v, kind) or t != "boolean" and isinstance(v, bool):
            faults.add(f"{where}: {v!r} is no {t}")
        else:
            bounds(where, shape, str(v) if t in ("integer", "long") else v)


def located(where, shape, headers, query, uri, body, block):
    """Members that travel in headers, query and path, then the body."""
    if shape is None:
        return
    headers = {k.lower(): v[0] for k, v in headers.items()}
    used, have, inside = set(), set(), {}
    for member, sub in shape.members.items():
        loc, name = sub.serialization.get("location"), sub.serialization.get("name", member)
        src = {"header": headers, "querystring": query, "uri": uri, "statusCode": {}}.get(loc)
        if src is None:
            inside[member] = sub
            continue
        key = name.lower() if loc == "header" else name
        if key in src:
            have.add(member)
            used.add((loc, key))
            scalar(f"{where}.{member}", sub, src[key])
    for k in query:
        if ("querystring", k) not in used:
            faults.add(f"{where}: the model has no query parameter {k}")
    plain = {"x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "x-amzn-requestid", "x-amzn-errortype", "x-amz-target"}
    for k in headers:
        if k.startswith("x-amz") and ("header", k) not in used and k not in plain:
            faults.add(f"{where}: the model has no header {k}")
    payload = shape.serialization.get("payload")
    if payload:
        if block != 524288:
            faults.add(f"{where}: a block of {block} bytes")
        have.add(payload)
    elif body.strip():
        v = json.loads(body)
        for k, sub in v.items():
            if k not in inside:
                faults.add(f"{where}: the model has no member {k}")
            elif sub is not None:
                have.add(k)
                js(f"{where}.{k}", inside[k], sub)
    required(where, shape, have)


def rest(x, model, op):
    u = urllib.parse.urlsplit(x["URL"])
    if x["Method"] != op.http["method"]:
        faults.add(f"{op.name}: by {x['Method']}")
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(op.http["requestUri"].split("?")[0]))
    m = re.fullmatch(pattern, urllib.parse.unquote(u.path))
    if not m:
        faults.add(f"{op.name}: the path {u.path} is not the model's")
        return
    located(op.name, op.input_shape, x["Header"], dict(urllib.parse.parse_qsl(u.query)), m.groupdict(), x["Body"], x["Block"])
    if x["Status"] == op.http.get("responseCode", 200):
        located(op.name + " answer", op.output_shape, x["AnswerHeader"], {}, {}, x["Answer"], x["AskedFor"])
    elif x["Status"] < 300:
        faults.add(f"{op.name}: status {x['Status']}")
    else:
        error(op, x["AnswerHeader"].get("X-Amzn-Errortype", [""])[0], json.loads(x["Answer"]))


def error(op, code, body):
    shapes = {s.name: s for s in op.error_shapes}
    common = {"ExpiredTokenException", "UnrecognizedClientException", "SignatureDoesNotMatch", "MissingAuthenticationToken", "RequestThrottledException"}
    if code not in shapes and code not in common:
        faults.add(f"{op.name}: the model has no error {code}")
    if code in shapes and body.get("Reason") and body["Reason"] not in shapes[code].members["Reason"].enum:
        faults.add(f"{op.name}: {code} has no reason {body['Reason']}")


for line in sys.stdin:
    x = json.loads(line)
    model = models[x["Service"]]
    op = model.operation_model(x["Action"])
    seen[x["Action"]] = seen.get(x["Action"], 0) + 1
    if x["Service"] in ("ec2", "sts"):
        query_request(x, model, op)
        query_answer(x, op)
    elif x["Service"] == "servicequotas":
        js(op.name, op.input_shape, json.loads(x["Body"]))
        if x["Status"] == 200:
            js(op.name + " answer", op.output_shape, json.loads(x["Answer"]))
        else:
            error(op, json.loads(x["Answer"])["__type"], {})
    else:
        rest(x, model, op)
for f in sorted(faults):
    print("fault:", f)
print("checked:", " ".join(f"{k}={v}" for k, v in sorted(seen.items())))
sys.exit(bool(faults))
