# Sends bytes as they are over TLS, one connection for each line of JSON on standard input, and says what came back as one line.
import json, socket, ssl, sys

context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
for line in sys.stdin:
    case = json.loads(line)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([case.get("alpn", "http/1.1")])
    answer = b""
    try:
        raw = socket.create_connection((case["to"], 443), timeout=5)
        with context.wrap_socket(raw, server_hostname=case.get("name")) as stream:
            stream.sendall(bytes.fromhex(case["hex"]))
            stream.settimeout(case.get("patience", 2))
            while data := stream.recv(65536):
                answer += data
            end = "closed"
    except (TimeoutError, socket.timeout):
        end = "open"
    except OSError as error:
        end = type(error).__name__
    print(json.dumps({"end": end, "hex": answer.hex()}), flush=True)
