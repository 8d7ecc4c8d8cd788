"""Personal data and secrets in a text: one small function for each kind, none of them a model.

What has a check digit is believed only if that is right. Names, addresses and birthdays are not found;
numbers and addresses that standards reserve for examples are left out. Letters and digits are ASCII ones:
a Chinese character may stand right before a number. Knows nothing of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24})(?![\w-])", re.ASCII)
# RFC 2606: names for documentation, which no person has.
_EXAMPLE_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)$", re.IGNORECASE)
_PHONES = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # ITU-T E.164: + and up to 15 digits
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}"  # North American Numbering Plan
    r"|1[3-9]\d{9}|0\d{2,3}-\d{7,8}"  # Chinese mobile and fixed lines
    r")(?![\w-]|\.\d)",
    re.ASCII,
)
_FICTION = re.compile(r"555\D?01\d\d$")  # 555-0100 to 555-0199 are kept for fiction (NANPA)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)", re.ASCII)
_CHINESE_ID = re.compile(
    r"(?<![\w.-])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)",
    re.ASCII,
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])", re.ASCII)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)", re.ASCII)
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")  # RFC 7468; OpenPGP, RFC 9580
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS access key ids
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}"
    r"|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}|[rs]k_live_[A-Za-z0-9]{20,}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # JSON Web Token, RFC 7519
    r")"
)
_ASSIGNED = re.compile(
    r"(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token|密码|口令|密钥)"
    r"[\"']?\s*(?:[:=：]|is\b|是|为)\s*[\"'“]?([^\s\"'”,;，。；]{8,})",
    re.IGNORECASE,
)
_GAP = re.compile(r"[ -]")
SHORTEST_IBAN = 15
"""Characters: Norway's (ISO 13616 registry)."""
_LETTER, _DIGIT = re.compile(r"[A-Za-z]"), re.compile(r"\d")


def _digits(text: str) -> list[int]:
    return [int(digit) for digit in text if digit.isdigit()]


def email_addresses(text: str) -> list[str]:
    """Return the e-mail addresses in a text, without those of example domains (RFC 2606)."""
    return [found.group() for found in _EMAIL.finditer(text) if not _EXAMPLE_DOMAIN.search(found.group(1))]


def phone_numbers(text: str) -> list[str]:
    """Return international, North American and Chinese telephone numbers of 7 to 15 digits."""
    found = [match.group() for match in _PHONES.finditer(text)]
    return [number for number in found if 7 <= len(_digits(number)) <= 15 and not _FICTION.search(number)]


def credit_cards(text: str) -> list[str]:
    """Return numbers of 13 to 19 digits, first 2 to 6, whose Luhn check digit is right (ISO/IEC 7812-1, annex B)."""
    found = (_right_part(match.group(), _is_card) for match in _CARD.finditer(text))
    return [number for number in found if number]


def _is_card(number: str) -> bool:
    digits = _digits(number)
    return 13 <= len(digits) <= 19 and number[0] in "23456" and passes_luhn(digits)


def _right_part(text: str, is_right: Callable[[str], bool]) -> str:
    """Return the longest beginning of ``text``, cut between its groups, whose check digits are right, or "".

    What follows a number (a month, a currency) may look like one more group of it.
    """
    ends = [len(text), *(gap.start() for gap in reversed(list(_GAP.finditer(text))))]
    return next((text[:end] for end in ends if is_right(text[:end])), "")


def passes_luhn(digits: list[int]) -> bool:
    """Tell whether the last digit is the check digit of those before it."""
    doubled = [2 * digit - 9 * (2 * digit > 9) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[::-2])) % 10 == 0 and len(set(digits)) > 1


def chinese_ids(text: str) -> list[str]:
    """Return Chinese resident identity numbers whose check character is right (GB 11643-1999, ISO 7064 MOD 11-2)."""
    found = [match.group().upper() for match in _CHINESE_ID.finditer(text)]
    return [
        number
        for number in found
        if "10X98765432"[sum(w * int(digit) for w, digit in zip(_ID_WEIGHTS, number[:17], strict=True)) % 11]
        == number[17]
    ]


def social_security_numbers(text: str) -> list[str]:
    """Return US social security numbers, without numbers that are never assigned (000, 666 and 900 to 999)."""
    return [match.group() for match in _SSN.finditer(text)]


def ibans(text: str) -> list[str]:
    """Return bank account numbers whose check digits are right (ISO 13616: the number modulo 97 is 1)."""
    found = (_right_part(match.group(), _is_iban) for match in _IBAN.finditer(text))
    return [number for number in found if number]


def _is_iban(text: str) -> bool:
    number = text.replace(" ", "")
    moved = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
    return len(number) >= SHORTEST_IBAN and int(moved) % 97 == 1


def private_keys(text: str) -> list[str]:
    """Return the first lines of PEM and OpenPGP private keys."""
    return _PRIVATE_KEY.findall(text)


def access_tokens(text: str) -> list[str]:
    """Return keys of well-known services by their fixed beginnings, and JSON Web Tokens."""
    return _TOKENS.findall(text)


def assigned_secrets(text: str) -> list[str]:
    """Return what is said to be a password, key or token: 8 characters and more, letters and digits among them."""
    found = [match.group(1) for match in _ASSIGNED.finditer(text)]
    return [value for value in found if _LETTER.search(value) and _DIGIT.search(value)]


Finder = Callable[[str], list[str]]

PERSONAL: dict[str, Finder] = {
    "e-mail address": email_addresses,
    "credit card number": credit_cards,
    "Chinese identity number": chinese_ids,
    "social security number": social_security_numbers,
    "bank account number": ibans,
    "telephone number": phone_numbers,
}
SECRET: dict[str, Finder] = {
    "private key": private_keys,
    "access token": access_tokens,
    "password or key": assigned_secrets,
}


def found_kinds(text: str, finders: dict[str, Finder]) -> Iterator[str]:
    """Yield the name of each kind that a text holds; what was found is not repeated, so that no log holds it."""
    return (name for name, find in finders.items() if find(text))
