// Embed texts and images of an exported model by transformers.js: node embed_in_node.mjs FOLDER DTYPE INPUT.json
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import {
    AutoImageProcessor,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    RawImage,
    env,
} from '@huggingface/transformers';

const [folder, dtype, input] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);
const { texts, images } = JSON.parse(readFileSync(input));

const tokenizer = await AutoTokenizer.from_pretrained(name);
const textModel = await CLIPTextModelWithProjection.from_pretrained(name, { dtype });
const tokens = tokenizer(texts, { padding: true, truncation: true });
const { text_embeds } = await textModel(tokens);

const processor = await AutoImageProcessor.from_pretrained(name);
const visionModel = await CLIPVisionModelWithProjection.from_pretrained(name, { dtype });
const pictures = images.map(({ width, height, pixels }) => new RawImage(Uint8ClampedArray.from(pixels), width, height, 3));
const { image_embeds } = await visionModel(await processor(pictures));

console.log(JSON.stringify({ texts: text_embeds.tolist(), images: image_embeds.tolist() }));
