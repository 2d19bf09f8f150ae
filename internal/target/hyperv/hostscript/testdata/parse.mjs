// Parses PowerShell scripts with tree-sitter-powershell, which argument 1 is the
// folder of, and prints for each what is wrong with it, the commands that it runs with their
// parameters, the functions it defines, and the properties it reads of $in.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(join(process.argv[2], "here.js")));
const { Parser, Language } = require("web-tree-sitter");
await Parser.init();
const parser = new Parser();
parser.setLanguage(await Language.load(require.resolve("tree-sitter-powershell/tree-sitter-powershell.wasm")));

const out = process.argv.slice(3).map((file) => {
  const root = parser.parse(readFileSync(file, "utf8")).rootNode;
  const faults = [];
  (function walk(n) {
    if (n.isError || n.isMissing) faults.push(`line ${n.startPosition.row + 1}: ${n.text.slice(0, 80)}`);
    n.children.forEach(walk);
  })(root);
  const commands = root.descendantsOfType("command").map((c) => ({
    line: c.startPosition.row + 1,
    name: c.childForFieldName("command_name")?.text ?? c.namedChildren.find((n) => n.type === "command_name")?.text ?? "",
    operator: c.namedChildren.find((n) => n.type === "command_invokation_operator")?.text ?? "",
    parameters: c.descendantsOfType("command_parameter").filter((p) => owner(p).id === c.id).map((p) => p.text.replace(/:$/, "")),
  }));
  return {
    faults, commands,
    functions: root.descendantsOfType("function_name").map((n) => n.text),
    reads: [...new Set(root.descendantsOfType("member_access").map((n) => n.text).filter((t) => /^\$in\.\w+$/i.test(t)).map((t) => t.slice(4)))],
    // Strings that values are put into, as part of a command.
    expanding: ["expandable_string_literal", "expandable_here_string_literal"].flatMap((t) => root.descendantsOfType(t)).filter((n) => owner(n).id !== n.id && /\$/.test(n.text)).map((n) => n.text),
    calls: [...new Set(root.descendantsOfType("invokation_expression").map((n) => n.text.split("(")[0]))],
  };
});
console.log(JSON.stringify(out));

function owner(n) {
  for (let p = n.parent; p; p = p.parent) if (p.type === "command") return p;
  return n;
}
