#!/usr/bin/env python3
"""A poller that shares no line with Aegis: written from the documented calls alone, with Python's standard library.

usage: poller.py SERVER NODE_ID COUNT
Registers NODE_ID, then polls, acknowledges, runs and reports until COUNT commands are done. Prints one JSON line each.
"""
import base64
import datetime
import hashlib
import json
import subprocess
import sys
import urllib.request


def call(method, url, body=None, token=None):
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = "Bearer " + token
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main():
    server, node_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    token = call("POST", server + "/v1/agents/register", {"node_id": node_id, "attrs": {"os": "python"}})["token"]
    done = 0
    while done < count:
        for command in call("GET", server + "/v1/commands/poll?wait=20", token=token)["commands"]:
            call("POST", server + "/v1/commands/ack", {"ids": [command["execution_id"]]}, token)
            # What a directive says is in its payload; a poller with a key would verify the signature first.
            directive = json.loads(base64.b64decode(command["directive"]["payload"]))
            if directive["kind"] != "command.run":
                continue
            payload = directive["body"]["payload"]
            started = now()
            ran = subprocess.run(["/bin/sh", "-c", payload["cmd"]], capture_output=True, timeout=payload["timeout_sec"])
            chunks = []
            for stream, data in (("stdout", ran.stdout), ("stderr", ran.stderr)):
                for offset in range(0, len(data), 1000):
                    part = base64.b64encode(data[offset : offset + 1000]).decode()
                    chunks.append({"offset": offset, "stream": stream, "data": part, "encoding": "base64"})
            ids = {"command_id": command["command_id"], "execution_id": command["execution_id"]}
            answer = call("POST", server + "/v1/commands/logs", {**ids, "chunks": chunks}, token)
            again = call("POST", server + "/v1/commands/logs", {**ids, "chunks": chunks}, token)
            totals = {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in (("stdout", ran.stdout), ("stderr", ran.stderr))
            }
            report = {
                **ids,
                "state": "succeeded" if ran.returncode == 0 else "failed",
                "exit_code": ran.returncode,
                "started_at": started,
                "finished_at": now(),
                "output": totals,
            }
            call("POST", server + "/v1/commands/status", report, token)
            done += 1
            print(json.dumps({"next": answer["next"], "again": again["next"], "exit_code": ran.returncode}), flush=True)


main()
