"""The names and values of verbs (infiniband/verbs.h), as pyverbs.enums has them."""

from __future__ import annotations

from typing import Final

# ---- Port, link, device --------------------------------------------------------------------------------------------
IBV_NODE_CA: Final = 1
IBV_TRANSPORT_IB: Final = 0
IBV_GID_TYPE_IB: Final = 0
IBV_GID_TYPE_ROCE_V1: Final = 1
IBV_GID_TYPE_ROCE_V2: Final = 2
IBV_GID_TYPE_SYSFS_IB_ROCE_V1: Final = 0
IBV_GID_TYPE_SYSFS_ROCE_V2: Final = 1
IBV_LINK_LAYER_ETHERNET: Final = 2
IBV_PORT_NOP: Final = 0
IBV_PORT_DOWN: Final = 1
IBV_PORT_INIT: Final = 2
IBV_PORT_ARMED: Final = 3
IBV_PORT_ACTIVE: Final = 4
IBV_ATOMIC_NONE: Final = 0
IBV_ATOMIC_HCA: Final = 1
IBV_ATOMIC_GLOB: Final = 2
IBV_MTU_256: Final = 1
IBV_MTU_512: Final = 2
IBV_MTU_1024: Final = 3
IBV_MTU_2048: Final = 4
IBV_MTU_4096: Final = 5
IBV_ODP_SUPPORT: Final = 1
IBV_ODP_SUPPORT_IMPLICIT: Final = 2
IBV_ODP_SUPPORT_SEND: Final = 1
IBV_ODP_SUPPORT_RECV: Final = 2
IBV_ODP_SUPPORT_WRITE: Final = 4
IBV_ODP_SUPPORT_READ: Final = 8
IBV_ODP_SUPPORT_ATOMIC: Final = 16
IBV_ODP_SUPPORT_SRQ_RECV: Final = 32

# ---- Access to a region --------------------------------------------------------------------------------------------
IBV_ACCESS_LOCAL_WRITE: Final = 1
IBV_ACCESS_REMOTE_WRITE: Final = 2
IBV_ACCESS_REMOTE_READ: Final = 4
IBV_ACCESS_REMOTE_ATOMIC: Final = 8
IBV_ACCESS_MW_BIND: Final = 16
IBV_ACCESS_ZERO_BASED: Final = 32
IBV_ACCESS_ON_DEMAND: Final = 64
IBV_ACCESS_HUGETLB: Final = 0x80
IBV_ACCESS_FLUSH_GLOBAL: Final = 0x100
IBV_ACCESS_FLUSH_PERSISTENT: Final = 0x200
IBV_ACCESS_RELAXED_ORDERING: Final = 0x100000
IBV_ACCESS_OPTIONAL_RANGE: Final = 0x3FF00000  # of these a device ignores what it does not know
ACCESS_REMOTE_INVALIDATE: Final = 1 << 30
"""The peer may end the key by SEND with invalidate. An extension: in verbs only a memory window can be ended so."""

# ---- Advice --------------------------------------------------------------------------------------------------------
IBV_ADVISE_MR_ADVICE_PREFETCH: Final = 0
IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE: Final = 1
IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT: Final = 2
IBV_ADVISE_MR_FLAG_FLUSH: Final = 1
# They are macros in verbs.h, so pyverbs has them with an underscore.
_IBV_ADVISE_MR_ADVICE_PREFETCH: Final = IBV_ADVISE_MR_ADVICE_PREFETCH
_IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE: Final = IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE
_IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT: Final = IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT
_IBV_ADVISE_MR_FLAG_FLUSH: Final = IBV_ADVISE_MR_FLAG_FLUSH

# ---- Changing a region ---------------------------------------------------------------------------------------------
IBV_REREG_MR_CHANGE_TRANSLATION: Final = 1
IBV_REREG_MR_CHANGE_PD: Final = 2
IBV_REREG_MR_CHANGE_ACCESS: Final = 4
IBV_REREG_MR_FLAGS_SUPPORTED: Final = 7

# ---- Asynchronous events -------------------------------------------------------------------------------------------
IBV_EVENT_CQ_ERR: Final = 0
IBV_EVENT_QP_FATAL: Final = 1
IBV_EVENT_QP_REQ_ERR: Final = 2
IBV_EVENT_QP_ACCESS_ERR: Final = 3
IBV_EVENT_COMM_EST: Final = 4
IBV_EVENT_SQ_DRAINED: Final = 5
IBV_EVENT_PATH_MIG: Final = 6
IBV_EVENT_PATH_MIG_ERR: Final = 7
IBV_EVENT_DEVICE_FATAL: Final = 8
IBV_EVENT_PORT_ACTIVE: Final = 9
IBV_EVENT_PORT_ERR: Final = 10
IBV_EVENT_LID_CHANGE: Final = 11
IBV_EVENT_PKEY_CHANGE: Final = 12
IBV_EVENT_SM_CHANGE: Final = 13
IBV_EVENT_SRQ_ERR: Final = 14
IBV_EVENT_SRQ_LIMIT_REACHED: Final = 15
IBV_EVENT_QP_LAST_WQE_REACHED: Final = 16
IBV_EVENT_CLIENT_REREGISTER: Final = 17
IBV_EVENT_GID_CHANGE: Final = 18
IBV_EVENT_WQ_FATAL: Final = 19

# ---- Queue pairs ---------------------------------------------------------------------------------------------------
IBV_QPT_RC: Final = 2
IBV_QPT_UC: Final = 3
IBV_QPT_UD: Final = 4
IBV_QPT_RAW_PACKET: Final = 8
IBV_QPT_XRC_SEND: Final = 9
IBV_QPT_XRC_RECV: Final = 10
IBV_QPT_DRIVER: Final = 255
IBV_QPS_RESET: Final = 0
IBV_QPS_INIT: Final = 1
IBV_QPS_RTR: Final = 2
IBV_QPS_RTS: Final = 3
IBV_QPS_SQD: Final = 4
IBV_QPS_SQE: Final = 5
IBV_QPS_ERR: Final = 6
IBV_QPS_UNKNOWN: Final = 7
IBV_MIG_MIGRATED: Final = 0
IBV_QP_STATE: Final = 1
IBV_QP_CUR_STATE: Final = 2
IBV_QP_EN_SQD_ASYNC_NOTIFY: Final = 4
IBV_QP_ACCESS_FLAGS: Final = 8
IBV_QP_PKEY_INDEX: Final = 16
IBV_QP_PORT: Final = 32
IBV_QP_QKEY: Final = 64
IBV_QP_AV: Final = 0x80
IBV_QP_PATH_MTU: Final = 0x100
IBV_QP_TIMEOUT: Final = 0x200
IBV_QP_RETRY_CNT: Final = 0x400
IBV_QP_RNR_RETRY: Final = 0x800
IBV_QP_RQ_PSN: Final = 0x1000
IBV_QP_MAX_QP_RD_ATOMIC: Final = 0x2000
IBV_QP_ALT_PATH: Final = 0x4000
IBV_QP_MIN_RNR_TIMER: Final = 0x8000
IBV_QP_SQ_PSN: Final = 0x10000
IBV_QP_MAX_DEST_RD_ATOMIC: Final = 0x20000
IBV_QP_PATH_MIG_STATE: Final = 0x40000
IBV_QP_CAP: Final = 0x80000
IBV_QP_DEST_QPN: Final = 0x100000
IBV_QP_RATE_LIMIT: Final = 0x2000000

# ---- Work requests -------------------------------------------------------------------------------------------------
IBV_WR_RDMA_WRITE: Final = 0
IBV_WR_RDMA_WRITE_WITH_IMM: Final = 1
IBV_WR_SEND: Final = 2
IBV_WR_SEND_WITH_IMM: Final = 3
IBV_WR_RDMA_READ: Final = 4
IBV_WR_ATOMIC_CMP_AND_SWP: Final = 5
IBV_WR_ATOMIC_FETCH_AND_ADD: Final = 6
IBV_WR_LOCAL_INV: Final = 7
IBV_WR_BIND_MW: Final = 8
IBV_WR_SEND_WITH_INV: Final = 9
IBV_WR_TSO: Final = 10
IBV_WR_FLUSH: Final = 14
IBV_WR_ATOMIC_WRITE: Final = 15
IBV_SEND_FENCE: Final = 1
IBV_SEND_SIGNALED: Final = 2
IBV_SEND_SOLICITED: Final = 4
IBV_SEND_INLINE: Final = 8
IBV_SEND_IP_CSUM: Final = 16

# ---- Work completions ----------------------------------------------------------------------------------------------
IBV_WC_SUCCESS: Final = 0
IBV_WC_LOC_LEN_ERR: Final = 1
IBV_WC_LOC_QP_OP_ERR: Final = 2
IBV_WC_LOC_EEC_OP_ERR: Final = 3
IBV_WC_LOC_PROT_ERR: Final = 4
IBV_WC_WR_FLUSH_ERR: Final = 5
IBV_WC_MW_BIND_ERR: Final = 6
IBV_WC_BAD_RESP_ERR: Final = 7
IBV_WC_LOC_ACCESS_ERR: Final = 8
IBV_WC_REM_INV_REQ_ERR: Final = 9
IBV_WC_REM_ACCESS_ERR: Final = 10
IBV_WC_REM_OP_ERR: Final = 11
IBV_WC_RETRY_EXC_ERR: Final = 12
IBV_WC_RNR_RETRY_EXC_ERR: Final = 13
IBV_WC_LOC_RDD_VIOL_ERR: Final = 14
IBV_WC_REM_INV_RD_REQ_ERR: Final = 15
IBV_WC_REM_ABORT_ERR: Final = 16
IBV_WC_INV_EECN_ERR: Final = 17
IBV_WC_INV_EEC_STATE_ERR: Final = 18
IBV_WC_FATAL_ERR: Final = 19
IBV_WC_RESP_TIMEOUT_ERR: Final = 20
IBV_WC_GENERAL_ERR: Final = 21
IBV_WC_TM_ERR: Final = 22
IBV_WC_TM_RNDV_INCOMPLETE: Final = 23
IBV_WC_SEND: Final = 0
IBV_WC_RDMA_WRITE: Final = 1
IBV_WC_RDMA_READ: Final = 2
IBV_WC_COMP_SWAP: Final = 3
IBV_WC_FETCH_ADD: Final = 4
IBV_WC_BIND_MW: Final = 5
IBV_WC_LOCAL_INV: Final = 6
IBV_WC_TSO: Final = 7
IBV_WC_FLUSH: Final = 8
IBV_WC_ATOMIC_WRITE: Final = 9
IBV_WC_RECV: Final = 128
IBV_WC_RECV_RDMA_WITH_IMM: Final = 129
IBV_WC_GRH: Final = 1
IBV_WC_WITH_IMM: Final = 2
IBV_WC_IP_CSUM_OK: Final = 4
IBV_WC_WITH_INV: Final = 8
