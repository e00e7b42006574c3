/** Keeps zod from trying eval(), which the page's security policy forbids. */

import { config } from "zod/v4";

config({ jitless: true });
