"""Runs a program on a WinRM service with somebody else's client: pywinrm or
pypsrp, as the first argument says. What is to be done comes as JSON on standard input."""
import base64
import json
import sys

job = json.load(sys.stdin)
stdin = base64.b64decode(job["stdin"])


def pywinrm(auth):
    import xmltodict
    from winrm.protocol import Protocol

    shell_uri = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
    p = Protocol(endpoint=job["url"], transport=auth, username=job["user"], password=job["password"], server_cert_validation="validate", ca_trust_path=job["ca"], operation_timeout_sec=2, read_timeout_sec=30)
    shell = p.open_shell(codepage=65001)
    try:
        command = p.run_command(shell, job["program"], job["arguments"], console_mode_stdin=False)
        message = {"env:Envelope": p._get_soap_header(resource_uri=shell_uri + "/cmd", action=shell_uri + "/Send", shell_id=shell)}
        message["env:Envelope"]["env:Body"] = {"rsp:Send": {"rsp:Stream": {"@Name": "stdin", "@CommandId": command, "@End": "true", "#text": base64.b64encode(stdin).decode()}}}
        p.send_message(xmltodict.unparse(message))
        out, err, code = p.get_command_output(shell, command)
        p.cleanup_command(shell, command)
    finally:
        p.close_shell(shell)
    return out, err, code


def pypsrp(auth):
    from urllib.parse import urlparse

    from pypsrp.shell import Process, SignalCode, WinRS
    from pypsrp.wsman import WSMan

    u = urlparse(job["url"])
    with WSMan(u.hostname, port=u.port, ssl=True, auth=auth, encryption="never", username=job["user"], password=job["password"], cert_validation=job["ca"], operation_timeout=2) as wsman:
        with WinRS(wsman, codepage=65001) as shell:
            p = Process(shell, job["program"], job["arguments"])
            p.begin_invoke()
            p.send(stdin, True)
            p.end_invoke()
            p.signal(SignalCode.TERMINATE)
            return p.stdout, p.stderr, p.rc


out, err, code = {"pywinrm": pywinrm, "pypsrp": pypsrp}[sys.argv[1]](sys.argv[2])
print(json.dumps({"stdout": out.decode(), "stderr": err.decode(), "code": code}))
