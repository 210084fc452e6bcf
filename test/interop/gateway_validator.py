"""A validator that shares nothing with the server but what deploy/kong/kong.yml says: Debian's PyJWT, as Kong's jwt plugin would do it.

Usage: gateway_validator.py KONG_YML, tokens on standard input, one a line. Prints one JSON value: first the configuration as it was read,
then for each token the claims, or why it is refused.
"""

import json
import sys

import jwt
import yaml


def plugin_of(config):
    for service in config["services"]:
        for route in service["routes"]:
            for plugin in route.get("plugins", []):
                if plugin["name"] == "jwt":
                    yield plugin["config"]


def judge(config, token):
    rules = next(plugin_of(config))
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        named = claims.get(rules["key_claim_name"])
        known = [secret for one in config["consumers"] for secret in one["jwt_secrets"] if secret["key"] == named]
        if not known:
            return {"refused": "NoCredentials"}
        claims = jwt.decode(
            token,
            known[0]["secret"],
            algorithms=[known[0]["algorithm"]],
            options={"require": rules["claims_to_verify"], "verify_aud": False, "verify_iat": False},
        )
        return {"claims": claims, "header": jwt.get_unverified_header(token)}
    except jwt.InvalidTokenError as error:
        return {"refused": type(error).__name__}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        config = yaml.safe_load(file)
    print(json.dumps({"config": config, "tokens": [judge(config, line.rstrip("\n")) for line in sys.stdin]}))


main()
