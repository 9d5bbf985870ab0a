"""Key schedule and message MACs of sessions between KMEs (docs/peer-protocol.md), written a second time with nothing but hashlib and hmac.

python3 test/vectors/peer_session.py test/vectors/peer-session.json
reads the inputs in that file and writes the outputs into it again: `git diff` must stay empty.
"""
import base64
import hashlib
import hmac
import json
import sys

LABEL = b"openkme session 1"


def sha256_of_fields(fields):
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(4, "big") + field)
    return digest.digest()


def hkdf(secret, salt, info, length):
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    block, output, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def uuid8(raw):
    raw = bytearray(raw)
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    text = raw.hex()
    return "-".join([text[0:8], text[8:12], text[12:16], text[16:20], text[20:32]])


def fingerprint(text):
    return bytes.fromhex(text.replace(":", ""))


def mac(key, lines, body):
    text = "\n".join(str(line) for line in lines + [len(body)]) + "\n"
    return hmac.new(key, text.encode() + body, hashlib.sha256).digest()


def main(path):
    vectors = json.load(open(path))
    for vector in vectors:
        salt = sha256_of_fields(
            [
                LABEL,
                vector["initiator"].encode(),
                vector["responder"].encode(),
                fingerprint(vector["initiatorFingerprint"]),
                fingerprint(vector["responderFingerprint"]),
                bytes.fromhex(vector["exporter"]),
                vector["offer"].encode(),
                vector["answer"].encode(),
            ]
        )
        secret = bytes.fromhex(vector["sharedSecrets"] + vector.get("qkdKey", ""))
        derive = lambda what, length: hkdf(secret, salt, LABEL + b" " + what, length)
        vector["sessionId"] = uuid8(derive(b"id", 16))
        request_key = derive(b"request key", 32)
        answer_key = derive(b"answer key", 32)
        vector["requestKey"] = request_key.hex()
        vector["answerKey"] = answer_key.hex()
        for message in vector["messages"]:
            common = [vector["initiator"], vector["responder"], vector["sessionId"], message["sequence"]]
            request = mac(
                request_key,
                ["openkme message 1", "request"] + common + [message["timeMs"], message["method"], message["path"]],
                message["body"].encode(),
            )
            answer = mac(
                answer_key,
                ["openkme message 1", "answer"]
                + common
                + [message["answerTimeMs"], message["status"], int(message["renew"]), base64.b64encode(request).decode()],
                message["answerBody"].encode(),
            )
            message["requestMac"] = base64.b64encode(request).decode()
            message["answerMac"] = base64.b64encode(answer).decode()
    with open(path, "w") as file:
        json.dump(vectors, file, indent=2, ensure_ascii=False)
        file.write("\n")


main(sys.argv[1])
