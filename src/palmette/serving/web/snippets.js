// The request of the form as others would send it.

const KEY = "PALMETTE_API_KEY"; // the key itself is never shown

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A shell command. The body is a here-document: no quoting, and no limit on the length of an argument. */
export function curl(url, body, withKey) {
  const lines = [`curl -sS ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  lines.push("--data-binary @- <<'JSON'");
  return `${lines.join(" \\\n  ")}\n${JSON.stringify(body, null, 2)}\nJSON\n`;
}

/** A script for Python without packages. */
export function python(url, body, withKey) {
  const headers = ['"Content-Type": "application/json"'];
  if (withKey) headers.push(`"Authorization": f"Bearer {os.environ['${KEY}']}"`);
  return [
    "import json",
    ...(withKey ? ["import os"] : []),
    "import urllib.request",
    "",
    `body = ${literal(body)}`,
    "request = urllib.request.Request(",
    `    ${JSON.stringify(url)},`,
    "    data=json.dumps(body).encode(),",
    `    headers={${headers.join(", ")}},`,
    ")",
    "with urllib.request.urlopen(request) as response:",
    "    found = json.load(response)",
    'print(json.dumps(found["answers"][0]["tasks"], indent=2, ensure_ascii=False))',
    "",
  ].join("\n");
}

/** A value in Python's spelling; its strings can be written as JSON's. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, part]) => `${JSON.stringify(key)}: ${literal(part)}`).join(", ")}}`;
}
