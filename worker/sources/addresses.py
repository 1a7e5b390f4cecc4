"""Which addresses a link may lead to: public ones, and what the operator allows by name.

A link comes from outside, and a worker stands inside: without this a link could read a cloud's metadata service or the
company's intranet. The table is ours and not :mod:`ipaddress`'s, whose answers differ between Python versions; a test
holds that it refuses at least as much. Nothing here resolves names or opens connections.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# A cloud's metadata services: never reached, whatever is allowed. Two of them look public.
_METADATA = frozenset(
    map(
        ip_address,
        ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"),
    )
)
# IANA's special-purpose registries, and multicast. What a link to such a place could mean, nobody wants.
_REFUSED = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address inside, reached through a relay of somebody's
            "3fff::/20",  # documentation
        ),
    )
)
_IPV6_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def refusal(address: Address, allowed: Collection[Network]) -> str | None:
    """Say why an address must not be reached, or ``None`` if it may.

    Args:
        address: as it was resolved; an IPv4 address inside an IPv6 one is looked at as well.
        allowed: networks that may be reached although they are not public.
    """
    inner = _inside(address)
    if _METADATA & {address, inner}:
        return "a cloud's metadata service"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "an address of one interface"
    if inner is not None:
        return refusal(inner, allowed)
    if any(address in network for network in allowed):
        return None
    if any(address in network for network in _REFUSED):
        return "not a public address"
    if isinstance(address, IPv6Address):
        if address not in _IPV6_UNICAST:
            return "not a public address"
        if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return "a tunnel into an IPv4 network"
    return None


def _inside(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, or translated by NAT64 (as DNS64 gives them)."""
    if not isinstance(address, IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
