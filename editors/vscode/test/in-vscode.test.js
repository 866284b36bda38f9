// The extension in a real VS Code: code-server serves it, Chromium opens it, and in-vscode uses it from within.
"use strict";

const assert = require("node:assert");
const { spawn, spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { test } = require("node:test");
const { version } = require("../package.json");

const CLIPCHECK = process.env.CLIPCHECK ?? "clipcheck";
const CODE_SERVER = process.env.CODE_SERVER ?? "code-server";
const CHROMIUM = process.env.CHROMIUM ?? "chromium";
const HERE = path.join(__dirname, "..");
const PORT = 20_000 + (process.pid % 10_000);

// Asked for its version, code-server writes its settings too.
const asked = { env: { ...process.env, XDG_CONFIG_HOME: path.join(os.tmpdir(), "clipcheck code-server") } };
const missing = [CODE_SERVER, CHROMIUM].filter((program) => spawnSync(program, ["--version"], asked).error);
if (!fs.existsSync(path.join(HERE, "node_modules", "vscode-languageclient"))) missing.push("npm install");

test("VS Code shows findings, fixes and pages", { skip: missing.join(", ") || false, timeout: 180_000 }, async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "clipcheck "));
  const at = (...parts) => path.join(folder, ...parts);
  for (const name of ["extensions", "user/User", "work", "browser"]) fs.mkdirSync(at(name), { recursive: true });
  fs.cpSync(HERE, at("extensions", `clipcheck.clipcheck-${version}`), { recursive: true });
  fs.cpSync(path.join(HERE, "in-vscode"), at("extensions", "clipcheck.clipcheck-in-vscode-0.0.0"), { recursive: true });
  fs.writeFileSync(at("work", "train.py"), "import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n");
  fs.writeFileSync(
    at("user", "User", "settings.json"),
    JSON.stringify({ "clipcheck.command": [CLIPCHECK, "server"], "security.workspace.trust.enabled": false }),
  );

  const options = ["--auth", "none", "--bind-addr", `127.0.0.1:${PORT}`, "--disable-telemetry", "--disable-update-check"];
  const folders = ["--user-data-dir", at("user"), "--extensions-dir", at("extensions")];
  const environment = { ...process.env, RESULT: at("result.json"), XDG_CONFIG_HOME: at("config") };
  const server = spawn(CODE_SERVER, [...options, ...folders, at("work")], { env: environment, detached: true });
  const address = `http://127.0.0.1:${PORT}/?folder=${encodeURIComponent(at("work"))}`;
  const serving = () => fetch(address).then(() => true, () => false);
  const browse = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"];
  let browser;
  t.after(() => {
    for (const one of [browser, server]) if (one) process.kill(-one.pid, "SIGKILL");
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
  });
  await until(serving, "code-server");
  browser = spawn(CHROMIUM, [...browse, `--user-data-dir=${at("browser")}`, address], { detached: true, stdio: "ignore" });
  await until(() => fs.existsSync(at("result.json")) && fs.statSync(at("result.json")).size, "result");

  const result = JSON.parse(fs.readFileSync(at("result.json"), "utf8"));
  assert.equal(result.error, undefined);
  assert.deepEqual(result.findings, [["clipcheck", "CLIP002", 2]]);
  assert.ok(result.fixes.some((title) => /clip_grad_norm_/.test(title)), result.fixes.join());
  assert.match(result.hover, /CLIP002/);
  assert.match(result.fixed, /^from clipcheck\.runtime import clip_grad_norm_$/m);
});

async function until(holds, what) {
  for (let tries = 0; tries < 600; tries += 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`no ${what} in two minutes`);
}
