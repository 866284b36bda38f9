// The extension in a stand-in for VS Code: it starts a client with the right server, restarts it, and says what is missing.
"use strict";

const assert = require("node:assert");
const Module = require("node:module");
const { test } = require("node:test");

const started = [];
const shown = [];
const commands = {};
let settings = { enable: true, command: ["/opt/clipcheck", "server"] };
let changed;
let fails = false;

class LanguageClient {
  constructor(id, name, server, options) {
    Object.assign(this, { id, name, server, options, running: false });
    started.push(this);
  }
  async start() {
    if (fails) throw new Error("spawn ENOENT");
    this.running = true;
  }
  isRunning() {
    return this.running;
  }
  async stop() {
    this.running = false;
  }
}

const vscode = {
  commands: {
    registerCommand: (name, run) => (commands[name] = run),
    executeCommand: async (...words) => words,
  },
  window: { showErrorMessage: (text) => shown.push(text) },
  workspace: {
    workspaceFolders: [{ uri: { fsPath: "/project" } }],
    getConfiguration: () => ({ get: (key) => settings[key] }),
    onDidChangeConfiguration: (listener) => (changed = listener),
  },
};
const load = Module._load;
Module._load = (name, ...rest) =>
  name === "vscode" ? vscode : name === "vscode-languageclient/node" ? { LanguageClient } : load(name, ...rest);
const { activate, deactivate } = require("../extension");
Module._load = load;

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("one server runs, for files, new files and cells, and is restarted when its settings change", async () => {
  await activate({ subscriptions: [] });
  assert.equal(started.length, 1);
  const [first] = started;
  assert.deepEqual(first.server, { command: "/opt/clipcheck", args: ["server"], options: { cwd: "/project" } });
  for (const selector of [
    { language: "python", scheme: "file" },
    { language: "markdown", scheme: "untitled" },
    { language: "python", notebook: "*" },
  ]) {
    assert.ok(first.options.documentSelector.some((one) => JSON.stringify(one) === JSON.stringify(selector)));
  }
  changed({ affectsConfiguration: (name) => name === "editor.fontSize" });
  await settled();
  assert.equal(started.length, 1);
  settings = { enable: true, command: ["/other", "server"] };
  changed({ affectsConfiguration: (name) => name === "clipcheck.command" });
  await settled();
  assert.deepEqual(started.map((one) => one.running), [false, true]);
  assert.equal(started[1].server.command, "/other");
  settings = { enable: false, command: [] };
  await commands["clipcheck.restart"]();
  assert.deepEqual(started.map((one) => one.running), [false, false]);
});

test("the command applies every safe fix", async () => {
  assert.deepEqual(await commands["clipcheck.fixAll"](), [
    "editor.action.codeAction",
    { kind: "source.fixAll.clipcheck", apply: "first" },
  ]);
});

test("a server that cannot be started is told with what to install", async () => {
  settings = { enable: true, command: [] };
  fails = true;
  await commands["clipcheck.restart"]();
  assert.equal(shown.length, 1);
  assert.match(shown[0], /`clipcheck` cannot be started \(spawn ENOENT\).*clipcheck\[lsp\]/);
  await deactivate();
});
