"""The two pods that the programs of this folder measure in: network namespaces for a client and a server, and what runs in them."""
import subprocess

CLIENT, SERVER, CLIENT_IP, SERVER_IP, PORT = "sb-client", "sb-server", "10.77.0.1", "10.77.0.2", 8080
UID = "2102"


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, capture_output=True, text=True).stdout


def inside(namespace, *command):
    return ["ip", "netns", "exec", namespace, *map(str, command)]


def network_down():
    for namespace in (CLIENT, SERVER):
        sh(f"ip netns del {namespace}", check=False)


def network_up():
    network_down()
    for namespace in (CLIENT, SERVER):
        sh(f"ip netns add {namespace}")
    sh(f"ip link add sb0 netns {CLIENT} type veth peer name sb0 netns {SERVER}")
    for namespace, address in ((CLIENT, CLIENT_IP), (SERVER, SERVER_IP)):
        sh(f"ip -n {namespace} addr add {address}/24 dev sb0 && ip -n {namespace} link set sb0 up && "
           f"ip -n {namespace} link set lo up")
        sh(f"ip netns exec {namespace} sysctl -q -w net.ipv4.ip_local_port_range='10000 65000' net.core.somaxconn=4096")


def expect(process, word):
    """Waits for a line of a program that was started with pipes."""
    if process.stdout.readline().strip() != word:
        raise SystemExit(f"{process.args[-2:]} did not get {word!r}")
