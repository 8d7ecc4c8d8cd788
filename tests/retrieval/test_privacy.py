"""Each kind of personal data and secret is found, and what only looks like it is not."""

from __future__ import annotations

import pytest

from retrieval.privacy import PERSONAL, SECRET, found_kinds, passes_luhn

FOUND = [
    ("Write to mara.venn@orrin.se today.", "e-mail address"),
    ("邮箱是zhang_san@qq.com。", "e-mail address"),
    ("Call +46 8 123 456 78.", "telephone number"),
    ("Call (212) 736-5000 or write.", "telephone number"),
    ("手机13812345678", "telephone number"),
    ("电话：010-62771234。", "telephone number"),
    ("Card 4539 1488 0343 6467 expires", "credit card number"),
    ("card 4111 1111 1111 1111 12/26", "credit card number"),
    ("card 4111111111111111 123", "credit card number"),
    ("2223003122003222", "credit card number"),
    ("ES91 2100 0418 4502 0005 1332 BIC CAIXESBB", "bank account number"),
    ("身份证11010519491231002X", "Chinese identity number"),
    ("His SSN is 219-09-9999.", "social security number"),
    ("Pay to DE89 3704 0044 0532 0130 00 please", "bank account number"),
]
SECRETS = [
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "private key"),
    ("-----BEGIN PRIVATE KEY-----", "private key"),
    ("key AKIA" + "Q3EGRIV2XNMV7YTK" + " is", "access token"),
    ("ghp_" + "a1B2" * 9, "access token"),
    ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "access token"),
    ("What is the password: hunter2hunter2?", "password or key"),
    ("api_key = 'q8Zr51mmT0'", "password or key"),
    ("密码是：abc12345678", "password or key"),
]
CLEAN = [
    "Write to someone@example.com or root@localhost.",
    "In 2019-2020 it had 1,234,567 people; version 3.11.4-0001 came in 1999.",
    "The number is 4539 1488 0343 6468.",
    "编号110105194912310021不是身份证。",
    "ISBN 978-3-16-148410-0 and 0000-0000-0000-0000",
    "Call 212-555-0123 in the film.",
    "666-12-1234 and 900-12-1234 are never assigned.",
    "The password: is asked twice; the secret is well-kept.",
    "DE89 3704 0044 0532 0130 02",
    "GDP was 13812345678901 and 10.1234.5678 of 2001-01-01T00:00:00",
]


@pytest.mark.parametrize(("text", "kind"), FOUND)
def test_personal_data_is_found(text: str, kind: str) -> None:
    assert list(found_kinds(text, PERSONAL)) == [kind]


@pytest.mark.parametrize(("text", "kind"), SECRETS)
def test_secrets_are_found(text: str, kind: str) -> None:
    assert list(found_kinds(text, SECRET)) == [kind]


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert list(found_kinds(text, PERSONAL | SECRET)) == []


def test_luhn() -> None:
    assert passes_luhn([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3])  # the standard's own example
    assert not passes_luhn([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 4])
    assert not passes_luhn([0] * 16)


def test_long_hostile_text_is_read_in_time() -> None:
    for piece in ("1-", "a@", "1 2", "+1 ", "AB12 ", "password:", "-----BEGIN ", "eyJ"):
        list(found_kinds(piece * 20_000, PERSONAL | SECRET))
