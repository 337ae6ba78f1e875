from gpulease.pb.akash.bme.v1 import types_pb2 as _types_pb2
from cosmos.base.v1beta1 import coin_pb2 as _coin_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventMintStatusChange(_message.Message):
    __slots__ = ("previous_status", "new_status", "collateral_ratio")
    PREVIOUS_STATUS_FIELD_NUMBER: _ClassVar[int]
    NEW_STATUS_FIELD_NUMBER: _ClassVar[int]
    COLLATERAL_RATIO_FIELD_NUMBER: _ClassVar[int]
    previous_status: _types_pb2.MintStatus
    new_status: _types_pb2.MintStatus
    collateral_ratio: str
    def __init__(self, previous_status: _Optional[_Union[_types_pb2.MintStatus, str]] = ..., new_status: _Optional[_Union[_types_pb2.MintStatus, str]] = ..., collateral_ratio: _Optional[str] = ...) -> None: ...

class EventVaultFunded(_message.Message):
    __slots__ = ("amount", "source", "new_vault_balance")
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NEW_VAULT_BALANCE_FIELD_NUMBER: _ClassVar[int]
    amount: _coin_pb2.Coin
    source: str
    new_vault_balance: _coin_pb2.Coin
    def __init__(self, amount: _Optional[_Union[_coin_pb2.Coin, _Mapping]] = ..., source: _Optional[str] = ..., new_vault_balance: _Optional[_Union[_coin_pb2.Coin, _Mapping]] = ...) -> None: ...

class EventLedgerRecordExecuted(_message.Message):
    __slots__ = ("id", "burned_from", "minted_to", "burner", "minter", "burned", "minted", "spread", "remint_credit_issued", "remint_credit_accrued")
    ID_FIELD_NUMBER: _ClassVar[int]
    BURNED_FROM_FIELD_NUMBER: _ClassVar[int]
    MINTED_TO_FIELD_NUMBER: _ClassVar[int]
    BURNER_FIELD_NUMBER: _ClassVar[int]
    MINTER_FIELD_NUMBER: _ClassVar[int]
    BURNED_FIELD_NUMBER: _ClassVar[int]
    MINTED_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    REMINT_CREDIT_ISSUED_FIELD_NUMBER: _ClassVar[int]
    REMINT_CREDIT_ACCRUED_FIELD_NUMBER: _ClassVar[int]
    id: _types_pb2.LedgerRecordID
    burned_from: str
    minted_to: str
    burner: str
    minter: str
    burned: _types_pb2.CoinPrice
    minted: _types_pb2.CoinPrice
    spread: _coin_pb2.Coin
    remint_credit_issued: _types_pb2.CoinPrice
    remint_credit_accrued: _types_pb2.CoinPrice
    def __init__(self, id: _Optional[_Union[_types_pb2.LedgerRecordID, _Mapping]] = ..., burned_from: _Optional[str] = ..., minted_to: _Optional[str] = ..., burner: _Optional[str] = ..., minter: _Optional[str] = ..., burned: _Optional[_Union[_types_pb2.CoinPrice, _Mapping]] = ..., minted: _Optional[_Union[_types_pb2.CoinPrice, _Mapping]] = ..., spread: _Optional[_Union[_coin_pb2.Coin, _Mapping]] = ..., remint_credit_issued: _Optional[_Union[_types_pb2.CoinPrice, _Mapping]] = ..., remint_credit_accrued: _Optional[_Union[_types_pb2.CoinPrice, _Mapping]] = ...) -> None: ...

class EventLedgerRecordCanceled(_message.Message):
    __slots__ = ("id", "cancel_reason", "owner", "to", "coins_to_burn", "denom_to_mint")
    ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    COINS_TO_BURN_FIELD_NUMBER: _ClassVar[int]
    DENOM_TO_MINT_FIELD_NUMBER: _ClassVar[int]
    id: _types_pb2.LedgerRecordID
    cancel_reason: _types_pb2.LedgerCanceledRecord.BMCancelReason
    owner: str
    to: str
    coins_to_burn: _coin_pb2.Coin
    denom_to_mint: str
    def __init__(self, id: _Optional[_Union[_types_pb2.LedgerRecordID, _Mapping]] = ..., cancel_reason: _Optional[_Union[_types_pb2.LedgerCanceledRecord.BMCancelReason, str]] = ..., owner: _Optional[str] = ..., to: _Optional[str] = ..., coins_to_burn: _Optional[_Union[_coin_pb2.Coin, _Mapping]] = ..., denom_to_mint: _Optional[str] = ...) -> None: ...
