"""The proxy before a DynamoDB does what its rule says, and nothing where it says nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from tests.servers import server
from tools.servers.dynamodb_proxy import Body, Change, Cut, Exchange, Proxy, Refuse, between

TABLE = f"behind-the-proxy-{uuid.uuid4()}"
"""Each worker of a run has its own: they share the server."""

KEY = {"pk": {"S": "p"}, "sk": {"B": b"k"}}


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    access = server(request.config, "ministack", is_needed=True)
    with between(access["endpoint"]) as opened:
        yield opened


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Any]:
    session = boto3.session.Session("test", "test", region_name="us-east-1")
    made = session.client(
        "dynamodb", endpoint_url=proxy.endpoint_url, config=Config(retries={"total_max_attempts": 1}, read_timeout=20)
    )
    made.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "B"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    yield made
    proxy.rule = lambda _operation, _request: None
    made.delete_table(TableName=TABLE)
    made.close()


def stored(client: Any) -> Any:
    return client.get_item(TableName=TABLE, Key=KEY, ConsistentRead=True).get("Item")


def test_calls_go_through_and_are_heard(proxy: Proxy, client: Any) -> None:
    heard: list[Exchange] = []
    proxy.heard = heard.append
    client.put_item(TableName=TABLE, Item=KEY)
    assert stored(client) == KEY
    assert [(each.operation, each.status) for each in heard] == [("PutItem", 200), ("GetItem", 200)]
    assert heard[0].request["Item"]["pk"] == heard[1].reply["Item"]["pk"] == {"S": "p"}


def test_a_refused_call_is_not_made(proxy: Proxy, client: Any) -> None:
    proxy.rule = lambda operation, _: Refuse("ThrottlingException") if operation == "PutItem" else None
    with pytest.raises(ClientError, match="ThrottlingException"):
        client.put_item(TableName=TABLE, Item=KEY)
    assert stored(client) is None
    proxy.rule = lambda operation, _: (
        Refuse("TransactionCanceledException", reasons=("None", "TransactionConflict"))
        if operation == "TransactWriteItems"
        else None
    )
    with pytest.raises(client.exceptions.TransactionCanceledException) as caught:
        client.transact_write_items(TransactItems=[{"Put": {"TableName": TABLE, "Item": KEY}}])
    assert [each["Code"] for each in caught.value.response["CancellationReasons"]] == ["None", "TransactionConflict"]


@pytest.mark.parametrize("is_done", [False, True])
def test_a_call_is_cut_off_before_or_after_it_was_made(proxy: Proxy, client: Any, is_done: bool) -> None:
    proxy.rule = lambda operation, _: Cut(is_done) if operation == "PutItem" else None
    with pytest.raises(HTTPClientError):
        client.put_item(TableName=TABLE, Item=KEY)
    assert (stored(client) is not None) == is_done


def test_requests_and_answers_are_changed(proxy: Proxy, client: Any) -> None:
    for number in range(3):
        client.put_item(TableName=TABLE, Item={**KEY, "sk": {"B": bytes([number])}})

    def rule(operation: str, request: Body) -> Change | None:
        if operation != "Query":
            return None
        return Change(request | {"Limit": 1}, lambda reply: reply | {"ScannedCount": 77})

    proxy.rule = rule
    asked = {"KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": {"S": "p"}}}
    answer = client.query(TableName=TABLE, **asked)
    assert (answer["Count"], answer["ScannedCount"], "LastEvaluatedKey" in answer) == (1, 77, True)
