import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { manifestSchema } from '@aegis/protocol/artifacts/manifest-schema';

/** Writes the manifest's JSON Schema from its zod schema: run it after a change there, as the test beside it says. */

const PATH = 'docs/schemas/aegis-artifact-1.json';
writeFileSync(PATH, `${JSON.stringify(manifestSchema(), null, 2)}\n`);
execFileSync('biome', ['format', '--write', PATH], { stdio: 'inherit' });
