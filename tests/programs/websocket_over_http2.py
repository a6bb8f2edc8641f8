"""A WebSocket over HTTP/2 (RFC 8441), by the packages h2 and wsproto: `websocket_over_http2.py HOST:PORT`.

Frames go out while their echoes come in, as both windows allow; another request is answered over the same connection
meanwhile."""

import select
import socket
import sys

import proving
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection

assert proving
host, port = sys.argv[1].rsplit(":", 1)
FRAMES = [bytes([number]) * (256 << 10) for number in range(16)]


class Client:
    def __init__(self):
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.unsent = bytearray()
        self.stream = None
        self.flush()

    def flush(self):
        if self.stream:
            while self.unsent:
                room = min(self.http.local_flow_control_window(self.stream), self.http.max_outbound_frame_size)
                if room <= 0:
                    break
                self.http.send_data(self.stream, bytes(self.unsent[:room]))
                del self.unsent[:room]
        self.socket.sendall(self.http.data_to_send())

    def events(self):
        """What came next; what can be sent is sent first."""
        self.flush()
        readable, _, _ = select.select([self.socket], [], [], 20)
        assert readable, "nothing came for 20 seconds"
        data = self.socket.recv(1 << 16)
        assert data, "the connection ended"
        events = self.http.receive_data(data)
        for event in events:
            assert not isinstance(event, StreamReset), event
            if isinstance(event, DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return events


client = Client()
while not any(isinstance(event, RemoteSettingsChanged) for event in client.events()):
    pass
offered = client.http.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0)
assert offered == 1, "extended CONNECT is not offered"
stream = client.http.get_next_available_stream_id()
pseudo = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/socket", ":authority": sys.argv[1]}
client.http.send_headers(stream, [*pseudo.items(), ("sec-websocket-version", "13")])
status = None
while status is None:
    status = next((dict(event.headers)[":status"] for event in client.events() if isinstance(event, ResponseReceived)), None)
assert status == "200", status

frames = Connection(ConnectionType.CLIENT)
client.stream = stream
for frame in FRAMES:
    client.unsent += frames.send(BytesMessage(data=frame))
other = client.http.get_next_available_stream_id()
client.http.send_headers(
    other, [(":method", "GET"), (":scheme", "http"), (":path", "/length"), (":authority", sys.argv[1])], end_stream=True
)
heard, partial, answered, closed = [], bytearray(), bytearray(), None
while closed is None or not answered:
    for event in client.events():
        if isinstance(event, DataReceived) and event.stream_id == other:
            answered += event.data
        elif isinstance(event, DataReceived):
            frames.receive_data(event.data)
            for message in frames.events():
                if isinstance(message, BytesMessage):
                    partial += message.data
                    if message.message_finished:
                        heard.append(bytes(partial))
                        partial.clear()
                elif isinstance(message, CloseConnection):
                    closed = (message.code, message.reason)
        elif isinstance(event, StreamEnded) and event.stream_id == stream and closed is None:
            raise AssertionError("the stream ended without a close")
    if len(heard) == len(FRAMES) and frames.state.name == "OPEN":
        client.unsent += frames.send(CloseConnection(code=4002, reason="enough"))
assert heard == FRAMES, [len(frame) for frame in heard]
assert (bytes(answered), closed) == (b"hello", (4002, "enough")), (answered, closed)
print("done")
