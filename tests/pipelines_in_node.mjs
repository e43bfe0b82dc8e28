// Run pipelines of transformers.js on an exported model: node pipelines_in_node.mjs LIBRARY.js FOLDER INPUT.json
// LIBRARY.js is the library's own source, with its registry as it is or patched.
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { pathToFileURL } from 'node:url';

const [library, folder, input] = process.argv.slice(2);
const { RawImage, env, pipeline } = await import(pathToFileURL(library));
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);
const { labels, images } = JSON.parse(readFileSync(input));
const pictures = images.map(({ width, height, pixels }) => new RawImage(Uint8ClampedArray.from(pixels), width, height, 3));

async function result(run) {
    try {
        return await run();
    } catch (error) {
        return String(error);
    }
}

const features = await result(async () => {
    const extract = await pipeline('image-feature-extraction', name, { dtype: 'fp32' });
    return (await extract(pictures)).tolist();
});
const scores = await result(async () => {
    const classify = await pipeline('zero-shot-image-classification', name, { dtype: 'fp32' });
    const found = await classify(pictures, labels, { hypothesis_template: 'This is a photo of {}.' });
    return { class: classify.model.constructor.name, found };
});
console.log(JSON.stringify({ features, scores }));
