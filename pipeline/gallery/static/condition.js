// The form's fields and the condition that they mean, each from the other.
//
// A condition is parts joined by "and". Those that the form could have written fill its fields; the rest is kept
// as it was written, so that form and text can be used in turn.

export const NUMBERS = ["confidence", "entropy", "distance"];

const NUMBER = String.raw`(-?\d+(?:\.\d+)?(?:e-?\d+)?)`;
const QUOTED = String.raw`'((?:[^']|'')*)'`;
const FORMS = [
  [
    new RegExp(`^(${NUMBERS.join("|")})\\s*(<=|>=|<|>)\\s*${NUMBER}$`, "i"),
    ([, name, sign, value]) => [bound(name.toLowerCase(), sign), { sign, value }],
  ],
  [
    new RegExp(`^share\\[${QUOTED}\\]\\s*(<=|>=|<|>)\\s*${NUMBER}$`, "i"),
    ([, name, sign, value]) => [bound("share", sign), { sign, value, class: unquoted(name) }],
  ],
  [
    new RegExp(`^date\\s*(<=|>=)\\s*'(\\d{4}-\\d\\d-\\d\\d)'$`, "i"),
    ([, sign, value]) => [bound("date", sign), { sign, value }],
  ],
  [
    new RegExp(`^(status|run_id)\\s*=\\s*${QUOTED}$`, "i"),
    ([, name, value]) => [name.toLowerCase(), { value: unquoted(value) }],
  ],
  [
    new RegExp(`^contains\\(lower\\(name\\),\\s*${QUOTED}\\)$`, "i"),
    ([, value]) => ["name", { value: unquoted(value) }],
  ],
];

const bound = (name, sign) => `${name}.${sign[0] === ">" ? "least" : "most"}`;
const unquoted = (text) => text.replaceAll("''", "'");
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

/** What a condition says: fields by name, each { value, sign?, class? }, and the parts that the form has no field for. */
export function fieldsOf(where) {
  const fields = {};
  const rest = [];
  for (const part of partsOf(where.trim())) {
    const [name, field] = read(part) ?? [];
    const foreignClass =
      field?.class !== undefined && fields.class !== undefined && fields.class !== field.class;
    if (!name || name in fields || foreignClass) {
      rest.push(part);
      continue;
    }
    fields[name] = field;
    if (field.class !== undefined) fields.class = field.class;
  }
  return { fields, rest };
}

/** The condition that fields and other parts mean together; "" if there are none. */
export function conditionOf(fields, rest) {
  const parts = [];
  const put = (name, write) => {
    if (fields[name]?.value) parts.push(write(fields[name]));
  };
  put("status", (one) => `status = ${quoted(one.value)}`);
  put("name", (one) => `contains(lower(name), ${quoted(one.value.toLowerCase())})`);
  put("run_id", (one) => `run_id = ${quoted(one.value)}`);
  for (const name of [...NUMBERS, "share", "date"]) {
    const left = name === "share" ? `share[${quoted(fields.class ?? "")}]` : name;
    const right = name === "date" ? quoted : String;
    put(`${name}.least`, (one) => `${left} ${one.sign ?? ">="} ${right(one.value)}`);
    put(`${name}.most`, (one) => `${left} ${one.sign ?? "<="} ${right(one.value)}`);
  }
  const others = rest.map((part) =>
    parts.length + rest.length > 1 && isLoose(part) ? `(${part}${part.includes("--") ? "\n" : ""})` : part,
  );
  return [...parts, ...others].join(" and ");
}

function read(part) {
  for (const [form, field] of FORMS) {
    const found = form.exec(part);
    if (found) return field(found);
  }
  return null;
}

/** Where a condition's words stand outside of quotes and brackets; null if they do not close, or it has comments. */
function outerWords(where) {
  const words = [];
  let depth = 0;
  for (const found of where.matchAll(
    /'(?:[^']|'')*'|"(?:[^"]|"")*"|--|\/\*|['"]|[([]|[)\]]|[\p{L}_][\p{L}\p{N}_]*/gu,
  )) {
    const [token] = found;
    if (token === "--" || token === "/*" || token === "'" || token === '"') return null;
    if ("([".includes(token)) depth += 1;
    else if (")]".includes(token)) depth -= 1;
    else if (depth === 0 && /^[\p{L}_]/u.test(token))
      words.push({ word: token.toLowerCase(), at: found.index });
    if (depth < 0) return null;
  }
  return depth === 0 ? words : null;
}

function partsOf(where) {
  if (!where) return [];
  const words = outerWords(where);
  if (!words || words.some(({ word }) => word === "or" || word === "case")) return [where];
  const parts = [];
  let start = 0;
  let between = false; // its own "and" follows
  for (const { word, at } of words) {
    if (word === "between") between = true;
    if (word !== "and") continue;
    if (between) {
      between = false;
      continue;
    }
    parts.push(where.slice(start, at).trim());
    start = at + 3;
  }
  return [...parts, where.slice(start).trim()].filter(Boolean);
}

const isLoose = (part) => outerWords(part)?.some(({ word }) => word === "or") ?? true;
