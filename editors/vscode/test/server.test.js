// The server as the extension starts it, through VS Code's own implementation of the protocol over stdio.
"use strict";

const assert = require("node:assert");
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { test } = require("node:test");
const rpc = require("vscode-jsonrpc/node");
const { LANGUAGES, serverCommand } = require("../server");
const manifest = require("../package.json");

const CLIPCHECK = process.env.CLIPCHECK ?? "clipcheck";
const TRAIN = "import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n";

test("the setting names the command", () => {
  assert.deepEqual(serverCommand(["a", "server", "-v"], "/x"), { command: "a", args: ["server", "-v"] });
});

test("the workspace's environment comes before the PATH", () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "clipcheck "));
  assert.deepEqual(serverCommand([], folder, "linux"), { command: "clipcheck", args: ["server"] });
  assert.deepEqual(serverCommand([], undefined, "linux"), { command: "clipcheck", args: ["server"] });
  for (const [platform, parts] of [["linux", ["venv", "bin", "clipcheck"]], ["win32", [".venv", "Scripts", "clipcheck.exe"]]]) {
    const program = path.join(folder, ...parts);
    fs.mkdirSync(path.dirname(program), { recursive: true });
    fs.writeFileSync(program, "");
    assert.deepEqual(serverCommand([], folder, platform), { command: program, args: ["server"] });
  }
  fs.rmSync(folder, { recursive: true });
});

test("every setting and command is used and no other", () => {
  const source = fs.readFileSync(path.join(__dirname, "..", "extension.js"), "utf8");
  const used = [...source.matchAll(/settings\.get\("(\w+)"\)/g)].map((found) => `clipcheck.${found[1]}`);
  const declared = Object.keys(manifest.contributes.configuration.properties).filter((name) => !name.includes("trace"));
  assert.deepEqual(used.sort(), declared.sort());
  const registered = [...source.matchAll(/registerCommand\("([\w.]+)"/g)].map((found) => found[1]);
  assert.deepEqual(registered.sort(), manifest.contributes.commands.map((one) => one.command).sort());
  assert.ok(LANGUAGES.includes("python"));
});

test("findings, a quick fix and a page come from the server", { timeout: 60_000 }, async () => {
  const { command, args } = serverCommand([CLIPCHECK, "server"]);
  const server = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const connection = rpc.createMessageConnection(
    new rpc.StreamMessageReader(server.stdout),
    new rpc.StreamMessageWriter(server.stdin),
  );
  const published = new Promise((resolve) => {
    connection.onNotification("textDocument/publishDiagnostics", (params) => params.diagnostics.length && resolve(params));
  });
  connection.listen();
  const { capabilities } = await connection.sendRequest("initialize", { processId: process.pid, rootUri: null, capabilities: {} });
  assert.ok(capabilities.codeActionProvider && capabilities.hoverProvider);
  await connection.sendNotification("initialized", {});
  const uri = "file:///project/train.py";
  await connection.sendNotification("textDocument/didOpen", {
    textDocument: { uri, languageId: "python", version: 1, text: TRAIN },
  });
  const { diagnostics } = await published;
  assert.deepEqual(diagnostics.map((one) => [one.code, one.range.start.line]), [["CLIP002", 2]]);
  assert.match(diagnostics[0].codeDescription.href, /\/rules\/deprecated-clip-grad-norm\/$/);
  const actions = await connection.sendRequest("textDocument/codeAction", {
    textDocument: { uri },
    range: diagnostics[0].range,
    context: { diagnostics, only: ["source.fixAll.clipcheck"] },
  });
  assert.equal(actions.length, 1);
  const hover = await connection.sendRequest("textDocument/hover", { textDocument: { uri }, position: diagnostics[0].range.start });
  assert.match(hover.contents.value, /CLIP002/);
  const ended = new Promise((resolve) => server.on("exit", resolve));
  await connection.sendRequest("shutdown");
  await connection.sendNotification("exit");
  assert.equal(await ended, 0);
  connection.dispose();
});
