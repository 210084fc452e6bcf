"""A node's end of the channel, written from docs/channel.md alone: it shows that the document is enough to write one.

It shares nothing with packages/protocol and must not: what both get right they got from the document. `Channel` is the library;
as a program it takes JSON lines on stdin and answers each on stdout by its `id` (see `Program`), for channel.test.ts.
Needs Debian's python3-websockets and python3-cryptography.
"""

import asyncio
import base64
import hashlib
import json
import os
import struct
import sys
import time
import warnings

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Debian 12 has websockets 10, Debian 13 has 15: this client is in both.
warnings.filterwarnings("ignore", category=DeprecationWarning)
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.legacy.client import connect  # noqa: E402

MAX_FRAME = 2 * 1024 * 1024
WINDOW = 2 * 1024 * 1024
MESSAGE_COST = 256
GIVE_BACK_AFTER = 256 * 1024
# By message: what was answered, over all connections of this process.
REPLIES = {}
VERSIONS = [1]


def b64(data):
    return base64.b64encode(data).decode()


def unb64(text):
    return base64.b64decode(text, validate=True)


def lp(*items):
    """Items joined, each prefixed by its length: LP of the document."""
    out = b""
    for item in items:
        data = item if isinstance(item, bytes) else str(item).encode()
        out += struct.pack(">I", len(data)) + data
    return out


def hkdf(key, salt, info):
    return HKDF(SHA256(), 32, salt, info.encode()).derive(key)


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def verify(public_key, signature, message):
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)


class BadMessage(Exception):
    """What ends a connection with 4004."""


class Refused(Exception):
    def __init__(self, answer):
        super().__init__(answer.get("message", "refused"))
        self.answer = answer


def pae(kind, payload):
    """What a DSSE envelope's signatures are over."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def open_trust_bundle(envelope, root_fingerprint):
    """The bundle's content, when the root with this fingerprint signed it (a DSSE envelope)."""
    payload = unb64(envelope["payload"])
    signed = pae(envelope["payloadType"], payload)
    bundle = json.loads(payload)
    for root in map(unb64, bundle["root"]["keys"]):
        fingerprint = hashlib.sha256(root).hexdigest()
        for signature in envelope["signatures"]:
            if fingerprint == root_fingerprint == signature["keyid"]:
                verify(root, unb64(signature["sig"]), signed)
                return bundle
    raise ValueError("the trust bundle is not signed by the root that this node knows")


class Direction:
    """One direction's key, epoch and place in turn."""

    def __init__(self, key):
        self.key, self.epoch, self.seq, self.under_key, self.since = key, 0, 0, 0, time.monotonic()

    def rotate(self):
        self.key = hkdf(self.key, b"", "aegis-ws-1 next key")
        self.epoch, self.under_key, self.since = self.epoch + 1, 0, time.monotonic()

    def passed(self):
        self.seq, self.under_key = self.seq + 1, self.under_key + 1


class Channel:
    """One connection. `open` it, `call` on it; `closed` is set with the code when it ends."""

    def __init__(self, *, uid, key, trust_bundle, root_fingerprint):
        self.uid = uid
        self.key = Ed25519PrivateKey.from_private_bytes(key)
        self.trust = open_trust_bundle(trust_bundle, root_fingerprint)
        self.closed = asyncio.get_running_loop().create_future()
        self.waiting = {}
        self.sent, self.back = {}, {}  # bytes by channel: what we sent, what was given back of it
        self.taken, self.told = {}, {}  # bytes by channel: what we are done with, what we have said of it
        self.credit_came = asyncio.Condition()
        self.heartbeats = 0
        self.heard = time.monotonic()
        self.requests = 0
        self.last_frame = None
        self.tasks = []

    # -- 1 and 2: connect, shake hands

    async def open(self, url, *, wrong_signature=False):
        public = raw(self.key.public_key())
        headers = {"X-Agent-ID": self.uid, "X-Agent-Public-Key": b64(public), "User-Agent": "Aegis-Agent/0.0.0-interop"}
        self.ws = await connect(
            url + "/ws/agent", extra_headers=headers, compression=None, max_size=MAX_FRAME, ping_interval=None
        )
        ephemeral = X25519PrivateKey.generate()
        ephemeral_key = raw(ephemeral.public_key())
        nonce, now = os.urandom(32), int(time.time())
        versions = ",".join(map(str, VERSIONS))
        node_transcript = lp(
            "aegis-ws-1 node", self.trust["fleet"], self.uid, versions, public, ephemeral_key, nonce, now
        )
        signature = self.key.sign(node_transcript + (b"!" if wrong_signature else b""))
        await self.ws.send(json.dumps({
            "agent_id": self.uid, "public_key": b64(public), "timestamp": now, "nonce": b64(nonce),
            "signature": b64(signature), "versions": VERSIONS, "ephemeral_key": b64(ephemeral_key),
        }))  # fmt: skip
        answer = json.loads(await self.ws.recv())
        if not answer["success"]:
            await self.ws.wait_closed()
            raise Refused({**answer, "closed": self.ws.close_code})

        server_key, backend_key = unb64(answer["server_key"]), unb64(answer["backend_key"])
        transcript = lp(
            "aegis-ws-1 server", node_transcript, signature, answer["version"], server_key, backend_key,
            unb64(answer["nonce"]), answer["timestamp"], answer["session_token"], answer["expires_at"],
            "signed" if answer["sign_messages"] else "unsigned",
            answer["rotation_messages"], answer["rotation_sec"], answer["heartbeat_sec"],
        )  # fmt: skip
        if answer["version"] not in VERSIONS or not self.may_serve(server_key):
            raise ValueError("the server is not one of this fleet's, or chose a version that was not offered")
        verify(server_key, unb64(answer["signature"]), transcript)
        self.terms, self.server_key = answer, server_key
        self.session = hashlib.sha256(transcript).digest()
        # exchange() itself refuses 32 zero bytes.
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(backend_key))
        self.out = Direction(hkdf(shared, self.session, "aegis-ws-1 node to server"))
        self.into = Direction(hkdf(shared, self.session, "aegis-ws-1 server to node"))
        self.heard = time.monotonic()
        self.tasks = [asyncio.create_task(self.read()), asyncio.create_task(self.beat())]
        await self.send("event", "hello", {"version": "0.0.0-interop", "channels": ["echo"]})

    def may_serve(self, key):
        return any(
            unb64(k["public_key"]) == key and "serve" in k["usage"] and k["state"] == "active" for k in self.trust["keys"]
        )

    # -- 3: messages

    async def send(self, kind, channel, content, ident=None):
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        cost = len(text) + MESSAGE_COST
        if channel != "heartbeat":
            if cost > WINDOW // 2:
                raise ValueError("one message takes at most half of a window")
            async with self.credit_came:
                await self.credit_came.wait_for(
                    lambda: self.sent.get(channel, 0) - self.back.get(channel, 0) + cost <= WINDOW
                )
                self.sent[channel] = self.sent.get(channel, 0) + cost
        # From here to ws.send nothing waits, so turn and wire are in the same order.
        out = self.out
        if out.under_key >= self.terms["rotation_messages"] or time.monotonic() - out.since >= self.terms["rotation_sec"]:
            out.rotate()
        ident, now = ident or os.urandom(16).hex(), int(time.time())
        nonce = bytes(4) + struct.pack(">Q", out.seq)
        data = self.associated(ident, kind, channel, now, out)
        payload = ChaCha20Poly1305(out.key).encrypt(nonce, text, data)
        signature = b64(self.key.sign(self.signed("node to server", data, payload))) if self.terms["sign_messages"] else ""
        self.last_frame = json.dumps({
            "id": ident, "type": kind, "channel": channel, "payload": b64(payload), "nonce": b64(nonce),
            "signature": signature, "timestamp": now, "seq": out.seq, "epoch": out.epoch,
        })  # fmt: skip
        out.passed()
        await self.ws.send(self.last_frame)

    @staticmethod
    def associated(ident, kind, channel, timestamp, direction):
        return lp("aegis-ws-1 message", ident, kind, channel, timestamp, direction.seq, direction.epoch)

    def signed(self, way, data, payload):
        return lp("aegis-ws-1 signed", way, self.session, data, payload)

    def opened(self, frame):
        message = json.loads(frame)
        into = self.into
        if message["epoch"] == into.epoch + 1:
            into.rotate()
        nonce = bytes(4) + struct.pack(">Q", into.seq)
        if (message["epoch"], message["seq"], unb64(message["nonce"])) != (into.epoch, into.seq, nonce):
            raise BadMessage("out of turn")
        data = self.associated(message["id"], message["type"], message["channel"], message["timestamp"], into)
        payload = unb64(message["payload"])
        if self.terms["sign_messages"]:
            verify(self.server_key, unb64(message["signature"]), self.signed("server to node", data, payload))
        elif message["signature"] != "":
            raise BadMessage("signed without need")
        text = ChaCha20Poly1305(into.key).decrypt(nonce, payload, data)
        into.passed()
        return message, text

    async def read(self):
        try:
            async for frame in self.ws:
                message, text = self.opened(frame)
                self.heard = time.monotonic()
                await self.take(message, json.loads(text))
                await self.done_with(message["channel"], len(text) + MESSAGE_COST)
        except ConnectionClosed:
            pass  # the code is read below, as for an end without an error
        except (BadMessage, InvalidTag, InvalidSignature, KeyError, ValueError) as error:
            print(f"ending the connection: {error!r}", file=sys.stderr)
            await self.ws.close(4004)
        self.end()

    def end(self):
        if not self.closed.done():
            self.closed.set_result(self.ws.close_code)
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError(str(self.ws.close_code)))
        for task in self.tasks[1:]:
            task.cancel()

    # -- 4: requests, answers, credit

    async def take(self, message, content):
        if message["channel"] == "heartbeat":
            self.heartbeats += 1
            async with self.credit_came:
                self.back.update(content.get("credit", {}))
                self.credit_came.notify_all()
        elif message["type"] == "response":
            self.waiting.pop(content["in_reply_to"]).set_result(content)
        elif message["type"] == "request":
            answer = {"in_reply_to": message["id"], **self.replied(message["channel"], content)}
            # Beside the reading: it may wait for credit, which only reading brings.
            self.tasks.append(asyncio.create_task(self.send("response", message["channel"], answer)))

    def replied(self, channel, given):
        """What operators say (docs/messages.md): the same message may come again, and is answered as the first time."""
        if channel != "echo":
            return {"error": {"code": "channel.no_handler", "message": "This node listens on echo alone."}}
        if given["message_id"] not in REPLIES:
            said = {"type": given["message_type"], "message": given["message"], "nth": len(REPLIES)}
            REPLIES[given["message_id"]] = {"result": {"reply": json.dumps(said)}}
        return REPLIES[given["message_id"]]

    async def done_with(self, channel, cost):
        if channel == "heartbeat":
            return
        self.taken[channel] = self.taken.get(channel, 0) + cost
        if self.taken[channel] - self.told.get(channel, 0) >= GIVE_BACK_AFTER:
            await self.heartbeat()

    async def heartbeat(self):
        news = {channel: count for channel, count in self.taken.items() if count != self.told.get(channel)}
        self.told.update(news)
        await self.send("event", "heartbeat", {"credit": news} if news else {})

    async def beat(self):
        every = self.terms["heartbeat_sec"]
        while True:
            await asyncio.sleep(every / 2)
            if time.monotonic() - self.heard > 2 * every:
                await self.ws.close(4005)
                return
            await self.heartbeat()

    # -- 5: what is said

    async def call(self, channel, call, **where):
        """The endpoint's answer, whole: {"result": …} or {"error": …}."""
        self.requests += 1
        ident = f"r-{self.requests}"
        answer = self.waiting[ident] = asyncio.get_running_loop().create_future()
        await self.send("request", channel, {"call": call, **where}, ident)
        content = await answer
        return {part: content[part] for part in ("result", "error") if part in content}


    async def report(self, fields):
        """Posts a report of an execution; signed, since a final one counts only so."""
        kind, payload = "application/vnd.aegis.report.v1+json", json.dumps(fields).encode()
        keyid = hashlib.sha256(raw(self.key.public_key())).hexdigest()
        signature = {"keyid": keyid, "sig": b64(self.key.sign(pae(kind, payload)))}
        envelope = {"payloadType": kind, "payload": b64(payload), "signatures": [signature]}
        return await self.call("commands", "pushStatus", body={"reports": [{**fields, "report": envelope}]})


class Program:
    """`do` of a line is one of the methods here; lines are done at once, beside each other, and answered when done."""

    channel = None

    async def connect(self, url, uid, key, trust_bundle, root_fingerprint, wrong_signature=False):
        self.channel = Channel(uid=uid, key=unb64(key), trust_bundle=trust_bundle, root_fingerprint=root_fingerprint)
        try:
            await self.channel.open(url, wrong_signature=wrong_signature)
        except Refused as refusal:
            return {"refused": refusal.answer}
        return {"version": self.channel.terms["version"], "signed": self.channel.terms["sign_messages"]}

    async def call(self, channel, call, **where):
        return await self.channel.call(channel, call, **where)

    async def report(self, fields):
        return await self.channel.report(fields)

    async def state(self):
        c = self.channel
        ways = {"out": c.out, "in": c.into}
        epochs = {way: {"messages": direction.seq, "epoch": direction.epoch} for way, direction in ways.items()}
        return {**epochs, "heartbeats": c.heartbeats, "sent": c.sent, "back": c.back}

    async def repeat(self):
        """Sends the last message once more, as somebody on the way could; answers the code of the end."""
        await self.channel.ws.send(self.channel.last_frame)
        return {"closed": await self.channel.closed}

    async def missign(self):
        """Sends a message under the right key with another identity's signature; answers the code of the end."""
        self.channel.key = Ed25519PrivateKey.generate()
        await self.channel.heartbeat()
        return {"closed": await self.channel.closed}

    async def line(self, text):
        asked = json.loads(text)
        ident, what = asked.pop("id"), asked.pop("do")
        try:
            answer = await getattr(self, what)(**asked)
        except Exception as error:  # whatever it was, the test is to see it
            answer = {"failed": repr(error)}
        print(json.dumps({"id": ident, **answer}), flush=True)

    async def run(self):
        loop = asyncio.get_running_loop()
        stdin = asyncio.StreamReader(limit=16 * 1024 * 1024)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        under_way = set()
        while text := await stdin.readline():
            task = asyncio.create_task(self.line(text))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if self.channel is not None and self.channel.tasks:
            await self.channel.ws.close(1000)


if __name__ == "__main__":
    asyncio.run(Program().run())
