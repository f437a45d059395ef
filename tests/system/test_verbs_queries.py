"""What a program asks a device before it uses it: which there are, their addresses, partition keys and limits."""

import dataclasses
import errno
import secrets
import socket

import pytest

from support.verbs import End
from unpinned import verbs as v
from unpinned.hca import layout as L

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]


def test_every_listed_device_is_an_address_of_this_machine():
    devices = v.get_device_list()
    assert str(devices[0]) == "unpinned-127.0.0.1" and len({device.name for device in devices}) == len(devices)
    for device in devices:
        address = str(device).removeprefix("unpinned-")
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))


def test_a_listed_device_is_opened_by_its_name_and_says_the_same_of_itself(no_leaks):
    device = v.get_device_list()[0]
    with v.Context(str(device), port=0) as context:
        assert context.name == str(device)
        assert context.query_device().node_guid == device.guid


def test_tables_of_gids_and_partition_keys(no_leaks):
    with v.Context() as context:
        (entry,) = context.query_gid_table(10)
        assert entry == context.query_gid_ex(1, 0)
        assert entry.gid == context.query_gid(1, 0) and entry.gid_type == v.IBV_GID_TYPE_ROCE_V2
        assert entry.ndev_ifindex == socket.if_nametoindex("lo")
        whole = entry.gid_subnet_prefix << 64 | entry.gid_interface_id
        assert whole.to_bytes(16, "big") == entry.gid.raw
        assert context.query_gid_type(1, 0) == v.IBV_GID_TYPE_SYSFS_ROCE_V2
        assert context.get_pkey_index(1, context.query_pkey(1, 0)) == 0
        for name, question in (("index", lambda: context.query_gid_ex(1, 1)), ("port_num", lambda: context.query_pkey(2, 0)),
                               ("pkey", lambda: context.get_pkey_index(1, 1)), ("max", lambda: context.query_gid_table(0))):
            with pytest.raises(v.ArgumentError, match=name):
                question()
    with pytest.raises(OSError) as caught:
        context.query_pkey(1, 0)
    assert caught.value.errno == errno.ENODEV


def test_no_queue_pair_has_the_number_of_all_groups(monkeypatch):
    """Packets to 0xFFFFFF are multicast (IBTA vol. 1, 9.6.1.2)."""
    monkeypatch.setattr(secrets, "randbits", lambda bits: (1 << bits) - 1)
    with End.open().context as context:
        last = int(context._device.h[L.H_QP_COUNT]) - 1
        free = context._device.tables.free_qps
        free.remove(last)
        free.append(last)  # the next to be taken
        pd, cq = v.PD(context), v.CQ(context, 8)
        assert v.QP(pd, v.QPInitAttr(scq=cq, rcq=cq)).qp_num == last


def test_only_a_peer_that_says_so_is_taken_for_one_of_ours(no_leaks):
    """Of any other READs are repeated one at a time."""
    for foreign in (False, True):
        end = End.open()
        with end.context as context:
            end.qp.connect(dataclasses.replace(end.qp.info(), unpinned=not foreign))
            assert context._device.h[end.qp._q + L.QP_FOREIGN] == foreign
